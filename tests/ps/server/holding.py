"""A server whose applier can write no version, so that what it is given stays in the making."""


def hold_the_applier(server):
    """Pin versions until no other can be written: pushes are accepted and stay in the making. Returns the pins."""
    versions = server.runtime.parameters["default"].versions
    pins = []
    while versions.room:
        pins.append(versions.fresh(versions.current.number + 1, versions.current.layout.nbytes))
    return pins
