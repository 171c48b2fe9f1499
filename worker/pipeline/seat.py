"""How a stage comes to its layers: what it tells the others of its replica, what all of them agree on, and what it
builds of that.

The one rule: nothing of a stage is made before all of them have said what they want; a process that comes later takes
what the others have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog
import torch

from leeway.protocol.replicas import Place
from leeway.worker.pipeline.agreement import Announcement, Notes, check_values, decided, model_digest
from leeway.worker.pipeline.cut import parts, read
from leeway.worker.pipeline.measuring import measure
from leeway.worker.pipeline.micro_batches import micro_batches
from leeway.worker.pipeline.plan import make
from leeway.worker.pipeline.stage import build
from leeway.worker.torch_bridge import ModelBridge

if TYPE_CHECKING:
    from leeway.protocol.membership import Joined
    from leeway.protocol.versions import Version
    from leeway.worker.blocking import BlockingClient
    from leeway.worker.pipeline.costs import LayerCost
    from leeway.worker.pipeline.cut import Cut
    from leeway.worker.pipeline.layers import Layers
    from leeway.worker.pipeline.micro_batches import Batch
    from leeway.worker.pipeline.plan import Plan
    from leeway.worker.pipeline.settings import Settings
    from leeway.worker.pipeline.stage import Stage
    from leeway.worker.receiving import Pulled
    from leeway.worker.starting import Start

log = structlog.get_logger("worker")


class Seat:
    """Of one process in its replica, at `address`. `bridge`: the tensors of its layers, once they are there; `plan`:
    which layers are in which stage, and what they cost; None where nobody has measured.
    """

    def __init__(self, client: BlockingClient, address: str, layers: Layers, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._layers: Layers | None = layers
        self._names = tuple(layer.name for layer in layers.layers)
        self._specs = layers.specs
        self._aliases = {key: names[1:] for key, names in layers.names.items() if len(names) > 1}
        self._place = Place(settings.stage, settings.stages, address, _plan_of(layers, settings))
        self._announcement = Announcement()
        self.bridge = ModelBridge(torch.nn.Module(), part=True)
        self.plan: Plan | None = None

    def take(self, example: Batch | None) -> Stage | None:
        """Join, and wait for the other stages: the stage that is to be trained here. None: the run is complete.

        Raises `ValueError` and `WireError` as `Pipeline.begin` does; it can be called again.
        """
        layers, settings = self._layers, self._settings
        assert layers is not None, "they are there until it has begun"
        costs = self._announcement.notes.costs or self._measured(layers, example)
        self._announcement.notes = Notes(costs)
        others = "waits until all stages are there" if settings.stages > 1 else "the only stage"
        self._log("joining", of=settings.stages, address=self._place.address, detail=others)
        if not self._join(self._place):
            return None
        stage = self._make(layers, self._agreed(layers))
        return stage if self._join(self._place) else None

    def offer_and_pull(self, start: Start) -> Pulled | None:
        """Offer the values of the own layers, as they are whenever the server wants them, and take the server's."""
        start.wait(self._client)
        announcement = self._announcement
        self._client.offer(
            self._specs,
            self.bridge.values,
            whole=True,
            aliases=self._aliases,
            own=self._place.owned,
            holds=lambda: announcement.notes.holds,
        )
        return self._client.pull()

    def begun(self) -> None:
        """Layers of other stages are nobody's any more."""
        self._layers = None

    def load(self, pulled: Pulled) -> Version:
        """Have the layers hold what was pulled; its version."""
        # Loaded in part, as by Ctrl-C in the midst of it, they are of no version.
        self._tell_holds(f"in part (stage {self._settings.stage})")
        self.bridge.load(pulled.frame)
        self._tell_holds(str(pulled.grant.version))
        return pulled.grant.version

    # How it is done.

    def _tell_holds(self, what: str) -> None:
        self._announcement.notes = replace(self._announcement.notes, holds=what)

    def _log(self, event: str, **facts: Any) -> None:
        log.info(event, rank=self._client.client.rank, stage=self._settings.stage, **facts)

    def _measured(self, layers: Layers, example: Batch | None) -> tuple[LayerCost, ...] | None:
        settings = self._settings
        if example is None:
            if settings.measured:
                raise ValueError(
                    f"cut={settings.cut!r} measures each layer, on every stage: give all of them an example of the"
                    " inputs, session.pipeline(example=...), or say the cut, as in cut='2,3'"
                )
            return None
        first = micro_batches(example, settings.micro_batches, "inputs")[0]
        return tuple(measure(layers, first, device=settings.device))

    def _join(self, place: Place) -> bool:
        """Whether the replica has a life; there is none where the run is complete."""
        names, announcement = self._names, self._announcement

        def check(joined: Joined) -> None:
            if joined.replica is not None and not all(group.whole for group in joined.groups.values()):
                check_values([Notes.read(stage.notes, names) for stage in joined.replica.stages])

        self._client.take_place(place, announcement.write, check)
        return self._client.conversation.ending is None

    def _make(self, layers: Layers, cut: Cut) -> Stage:
        """The stage with its keys, and its place by them."""
        settings = self._settings
        init = bool(self._client.conversation.specs)
        stage = build(layers, cut, settings.stage, settings.seed, init=init, device=settings.device)
        self.bridge = ModelBridge(stage.module, part=True)
        keys = tuple(spec.name for spec in self.bridge.specs)
        others = {tie.key for tie in stage.ties if tie.owner != settings.stage}
        owned = tuple(key for key in keys if key not in others)
        self._place = replace(self._place, keys=keys, owned=owned)
        self._announcement.notes = replace(self._announcement.notes, cut=cut)
        return stage

    def _agreed(self, layers: Layers) -> Cut:
        """The cut that all stages come to."""
        settings = self._settings
        replica = self._client.client.replica
        assert replica is not None, "a stage has joined"
        notes = [Notes.read(stage.notes, self._names) for stage in replica.stages]
        cut = decided(notes, len(layers), settings.stages)
        rows = [each.costs for each in notes]
        known = [row for row in rows if row is not None]
        text = settings.cut if settings.stages > 1 else str(len(layers))
        if cut is not None:
            text = ",".join(map(str, cut))
        if len(known) == settings.stages:
            self.plan = make(known, settings.schedule.name, settings.micro_batches, text, recompute=settings.recompute)
            sizes = tuple(len(stage.layers) for stage in self.plan.stages)
        elif settings.measured and cut is None:
            raise ValueError("another stage has measured nothing; give all stages an example of the inputs")
        else:
            sizes = read(text, len(layers), settings.stages)
        self._tell(sizes)
        return sizes

    def _tell(self, sizes: Cut) -> None:
        begin, end = parts(sizes)[self._settings.stage]
        self._log("cut", layers=", ".join(self._names[begin:end]))
        if self.plan and self._settings.stage == 0:
            for line in self.plan.table().splitlines():
                log.info(line)


def _plan_of(layers: Layers, settings: Settings) -> dict[str, str]:
    """What must be the same in all stages."""
    return {
        "model": model_digest(layers.specs, (layer.module for layer in layers.layers)),
        "cut": settings.cut,
        "micro_batches": str(settings.micro_batches),
        "schedule": settings.schedule.name,
        "seed": str(settings.seed),
        "torch": torch.__version__,
    }
