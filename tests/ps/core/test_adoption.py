"""Which tensor of a file is which of a model's."""

import pytest

from leeway.protocol.offers import Offer
from leeway.protocol.schema import Difference
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.core.adoption import WRAPPER_PREFIXES, Adoption, adopt


def specs(*names, kind=Kind.TRAINABLE):
    return tuple(TensorSpec(name, (3,), "float32", kind) for name in names)


def match(file, model, *, whole=True, aliases=None):
    offered = specs(*model)
    known = {spec.name: spec for spec in specs(*file)}
    return adopt(known, Offer(offered, whole=whole, aliases=aliases or {}), offered)


def test_the_same_names_change_nothing():
    found = match(["w", "b"], ["b", "w"])
    assert isinstance(found, Adoption)
    assert found.sources == {"w": "w", "b": "b"}
    assert not found.changes({spec.name: spec for spec in specs("w", "b")})
    assert found.changes({spec.name: spec for spec in specs("w", "b", kind=Kind.FLOAT_BUFFER)})


@pytest.mark.parametrize("prefix", WRAPPER_PREFIXES)
def test_a_wrappers_prefix_is_taken_off_when_all_names_have_it(prefix):
    found = match([f"{prefix}w", f"{prefix}b"], ["w", "b"])
    assert found.sources == {"w": f"{prefix}w", "b": f"{prefix}b"}
    assert match([f"{prefix}w", "b"], ["w", "b"]) == Difference((f"{prefix}w",), ("w",))


def test_prefixes_around_one_another():
    assert match(["module._orig_mod.w"], ["w"]).sources == {"w": "module._orig_mod.w"}


def test_a_prefix_of_the_models_own_stays():
    assert match(["module.w"], ["module.w"]).sources == {"module.w": "module.w"}
    assert match(["module.module.w"], ["module.w"]).sources == {"module.w": "module.module.w"}


def test_a_name_that_is_nothing_but_a_prefix_is_a_name():
    assert match(["module."], ["w"]) == Difference(("module.",), ("w",))


def test_a_tied_tensor_is_found_under_any_of_its_names():
    found = match(["head", "b"], ["emb", "b"], aliases={"emb": ("tail", "head")})
    assert (found.sources, found.twins) == ({"emb": "head", "b": "b"}, ())
    found = match(["module.head"], ["emb"], aliases={"emb": ("head",)})
    assert found.sources == {"emb": "module.head"}


def test_two_names_of_a_tied_tensor_are_one_tensor():
    found = match(["head", "emb", "b"], ["emb", "b"], aliases={"emb": ("head",)})
    assert found.sources == {"emb": "emb", "b": "b"}
    assert found.twins == (("emb", "head"),)
    assert {spec.name for spec in found.specs} == {"emb", "b"}


def test_what_is_missing_on_either_side():
    assert match(["w", "b", "c"], ["w", "d"]) == Difference(("b", "c"), ("d",))
    # Told of the match that leaves the least.
    assert match(["module.w", "module.b"], ["w"]) == Difference(("b",), ())


def test_a_part_of_a_model_takes_what_it_names():
    found = match(["module.w", "module.b"], ["w"], whole=False)
    assert found.sources == {"w": "module.w", "b": "module.b"}
    assert {spec.name for spec in found.specs} == {"w", "b"}
    assert match(["w"], ["w", "c"], whole=False) == Difference((), ("c",))


def test_a_file_without_any_tensor_for_the_group_has_nothing_to_give():
    assert match([], ["w"]) == Difference((), ("w",))
