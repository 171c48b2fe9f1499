"""Every JSON route: a conversation with a server, its requests one after another, the machine behind the mapping.

An input is some requests, as `heads` has them, with a line of `---` between two.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from leeway.errors import WireError
from leeway.protocol.http.replies import read_reply, write_reply
from leeway.protocol.refusals import Refused
from leeway.protocol.tuning import SetOptimizer
from leeway.ps.arithmetic.settings import OptimizerSettings
from leeway.ps.core import saved
from leeway.ps.core.consistency import check
from tests.fuzz import heads, requests
from tests.fuzz.heads import Text
from tests.fuzz.machines import SETTINGS, Asking
from tests.fuzz.requests import LIFE, LIFE_FIELDS, PLACE, PUSH, ROW, text
from tests.fuzz.target import same

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from random import Random

BETWEEN = b"\n---\n"
_JOIN = text("POST", "/v1/workers", {"rank": "w0", "session": "s"})
_OFFER = text("PUT", "/v1/params", {"tensors": [ROW]})
_PULL = text("GET", f"/v1/params?{LIFE}&clock=0", Prefer="wait=3")
_PUSH = text("POST", "/v1/updates?pull=1", {**PUSH, "tensors": [ROW]}, Prefer="wait=3")
_OTHER = text("POST", "/v1/workers", {"rank": "w1", "session": "t"})
_STAGES = [
    text(
        "POST",
        "/v1/workers",
        {"rank": "r0", "session": f"s{stage}", "place": {**PLACE, "stage": stage, "keys": [key], "owned": [key]}},
    )
    for stage, key in enumerate("ab")
]
# No input asks for more: one that repeats itself tells nothing new.
_MOST = 24


class Target:
    longest_bytes = 4096
    reserved_bytes = 2**22

    def __init__(self, folder: Path) -> None:
        """It needs none."""

    def seeds(self) -> Iterable[bytes]:
        yield from requests.SEEDS
        yield BETWEEN.join((_JOIN, _OFFER, _PULL, _PUSH))
        yield BETWEEN.join((_OFFER, _JOIN, _OTHER, _PULL, text("PUT", "/v1/policy", {"mode": "sync"}), _PUSH))
        yield BETWEEN.join((_JOIN, _JOIN, text("DELETE", f"/v1/workers/w0?{LIFE}"), _JOIN, _PULL))
        yield BETWEEN.join((_JOIN, text("POST", "/v1/barriers/b", {**LIFE_FIELDS, "generation": 0}), _OTHER))
        yield BETWEEN.join((_JOIN, text("PUT", "/v1/quarantine/w0", {"why": "noise"}), _JOIN, _OTHER, _PULL))
        yield BETWEEN.join((*_STAGES, _OFFER))
        yield BETWEEN.join((text("PUT", "/v1/optimizer", {"kind": "adam", "lr": 0.1}), _OFFER, _JOIN, _PULL))

    def words(self) -> Iterable[str]:
        return (*requests.WORDS, "\n---\n")

    def take(self, data: bytes) -> bool:
        asking = Asking()
        settings = OptimizerSettings()
        accepted = False
        for each in data.split(BETWEEN)[:_MOST]:
            try:
                request, _ = requests.read(Text.of(each))
                if isinstance(request, SetOptimizer):
                    settings = _tuned(settings, request)
            except WireError:
                continue
            reply = asking.ask(request)
            if reply is not None and not isinstance(request, SetOptimizer):
                answer = write_reply(reply)
                fields = None if answer.fields is None else json.loads(json.dumps(answer.fields))
                again = read_reply(request, answer._replace(fields=fields))
                if isinstance(reply, Refused) and isinstance(again, Refused):
                    same(str(reply.error), str(again.error), "the refusal")
                else:
                    same(reply, again, "the reply")
                    accepted = True
            asking.tick(1.0)
        _is_sound(asking)
        return accepted

    def mutated(self, data: bytes, chance: Random) -> bytes | None:
        rows = data.split(BETWEEN)
        at = chance.randrange(len(rows))
        match chance.randrange(8):
            case 0:
                rows.insert(at, chance.choice((_JOIN, _OTHER, _OFFER, _PULL, _PUSH, *requests.SEEDS)))
            case 1:
                rows.append(rows[at])
            case 2 if len(rows) > 1:
                del rows[at]
            case _:
                changed = heads.mutated(rows[at], chance, requests.WORDS)
                if changed is None:
                    return None
                rows[at] = changed
        return BETWEEN.join(rows)


def _tuned(settings: OptimizerSettings, request: SetOptimizer) -> OptimizerSettings:
    try:
        wanted = settings.reconfigured(request.settings)
    except ValueError:
        return settings
    fields = json.loads(json.dumps(wanted.to_fields()))
    same(wanted, OptimizerSettings.read(fields), "the settings")
    return wanted


def _is_sound(asking: Asking) -> None:
    """What the machine has come to can be saved, and the one that goes on from it is the same."""
    state, bodies = saved.save(asking.machine)
    state = json.loads(json.dumps(state))
    check(state, len(bodies))
    again = saved.restore(SETTINGS, state, bodies, asking.machine.epoch, asking.now)
    restored = json.loads(json.dumps(saved.save(again)[0]))
    same(state, restored, "the state")
