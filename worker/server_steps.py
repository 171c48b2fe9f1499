"""What the server's optimizer does to a script's own steps, or in their place: told once.

The one rule: what arrives as the script has made it is not warned of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog

from leeway.worker.warn import warn

if TYPE_CHECKING:
    import torch

log = structlog.get_logger("worker")

# Of what is warned of in a server's optimizer: its name in the settings, and the value with which a delta is a delta.
_NEUTRAL: Final = {"kind": "sgd", "lr": 1.0, "weight_decay": 0.0, "clip_norm": None, "lr_schedule": "constant"}

# The kinds of the server's optimizer that step as those of torch do.
_KINDS: Final = {
    "SGD": ("sgd", "momentum", "nesterov"),
    "Adam": ("adam",),
    "AdamW": ("adamw",),
    "Adagrad": ("adagrad",),
    "RMSprop": ("rmsprop",),
    "Adadelta": ("adadelta",),
}


def tell_whose_steps(optimizer: torch.optim.Optimizer, settings: dict[str, dict[str, Any]]) -> None:
    """That the server's optimizer makes the steps, and which one it is, of each part. Warns where it is of another kind
    than the script's."""
    script = type(optimizer).__name__
    told = {name: f"{each['kind']} with lr {each['lr']:g}" for name, each in settings.items()}
    detail = f"{', '.join(dict.fromkeys(told.values()))}; {script} finds no gradients, and moves nothing"
    log.info("the server's optimizer makes the steps", detail=detail)
    kinds = _KINDS.get(script, ())
    for name, each in settings.items():
        if kinds and each["kind"] not in kinds:
            warn(
                f"this script has {script}, and the server steps {name} with {told[name]}: start it with --optimizer"
                f" {kinds[0]} and a rate, if it is to step as the script says"
            )


def warn_of_server(settings: dict[str, Any]) -> None:
    """Say what the server's optimizer does to a delta, unless it is plain SGD with rate 1."""
    found = [f"{name} {settings[name]}" for name, neutral in _NEUTRAL.items() if settings.get(name) != neutral]
    if found:
        warn(
            f"the server changes the steps that this script's optimizer makes, by its own: {', '.join(found)}. Leave"
            " --optimizer, --lr and the like out of ps-serve, and they arrive as they were made"
        )
