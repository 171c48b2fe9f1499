"""`geometric-median`: the point with the smallest weighted sum of distances to the updates, by the smoothed Weiszfeld
algorithm from their mean (RFA: Pillutla et al. 2019, *Robust Aggregation for Federated Learning*, arXiv 1912.13445,
section 3, algorithm 2): z = sum(b_k g_k) / sum(b_k), b_k = a_k / max(nu, |z - g_k|), nu = 1e-6.

Stands updates of less than half of all weight being anything at all. a_k is the update's part of all samples, as in
the mean: a worker that lies about its number of samples lies about its weight.

An absent tensor counts as a zero, "it does not move", in the distances and in the sum, as in the mean.

z never leaves the hull of the updates, it is a mean of them with other weights; and how far it is from each follows
from those weights and the scalar products of any two updates. So the whole model is gone through three times (who is
in the middle; the products, seen from there; the sum), and in between the algorithm goes on with a number for each
update. The paper stops after three iterations, each of which is a round of messages there. Here it goes on to the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from leeway.ps.arithmetic.aggregation.rule import Rule, shares

if TYPE_CHECKING:
    import torch

    from leeway.ps.arithmetic.stages import State
    from leeway.ps.arithmetic.updates import Updates

# Ten to forty are the usual case. As many are needed against three of seven that are 1e30 away from the others.
ITERATIONS = 1000
# It has come to the end when no weight changes by more than this part of itself.
_STILL = 1e-9
# No update is nearer than this, so that one that z falls upon does not hold it for ever.
NU = 1e-6


@dataclass(frozen=True, slots=True)
class GeometricMedian(Rule):
    name: ClassVar[str] = "geometric-median"

    def apply(self, state: State, updates: Updates) -> tuple[Updates, State]:
        share = shares(updates.samples)
        distances = updates.distances()
        # One with a NaN or an infinity, if such were let in, is infinitely far from all, itself too: without weight.
        finite = [index for index, own in enumerate(distances.diagonal().tolist()) if own == 0.0]
        if not finite:
            return updates.total(share), state
        among = distances[finite][:, finite].sqrt() @ distances.new_tensor([share[index] for index in finite])
        # Seen from the middle: from far away, the differences between those that are near each other would be lost.
        products = updates.products(finite[int(among.argmin())])[finite][:, finite]
        found = [0.0] * len(share)
        for index, weight in zip(finite, weights(products, [share[index] for index in finite]), strict=True):
            found[index] = weight
        return updates.total(found), state


def weights(products: torch.Tensor, share: list[float], iterations: int = ITERATIONS) -> list[float]:
    """With what weight each update is in the result, from the scalar products of any two, as seen from any point."""
    shares = products.new_tensor(share)
    found = shares / shares.sum()
    for _ in range(iterations):
        # |z - g_i|^2 = |z|^2 - 2 z.g_i + |g_i|^2
        with_z = products @ found
        distances = (found @ with_z - 2 * with_z + products.diagonal()).clamp(min=0.0).sqrt()
        before, found = found, shares / distances.clamp(min=NU)
        found /= found.sum()
        if bool(((found - before).abs() <= _STILL * before).all()):
            break
    return found.tolist()
