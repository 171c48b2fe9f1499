"""Actor and critic on a walk along cells: one step of the optimizer for each episode, all of whose losses are summed.

python examples/scripts/actor_critic.py             plain torch
PS_SERVER=http://127.0.0.1:8080 python ...          a worker; RANK and WORLD_SIZE say which of how many
"""

import os

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional

EPISODES, CELLS, LONGEST, DISCOUNT = 80, 9, 30, 0.95


class ActorCritic(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(CELLS, width), nn.ReLU())
        self.actor, self.critic = nn.Linear(width, 2), nn.Linear(width, 1)

    def forward(self, cell: Tensor) -> tuple[Categorical, Tensor]:
        inner = self.body(cell)
        return Categorical(logits=self.actor(inner)), self.critic(inner).squeeze()


def episode(model: ActorCritic) -> tuple[list[Tensor], list[Tensor], list[float]]:
    """From the middle: 1 at the right end, and each step costs a little. Log-probabilities, values, rewards."""
    place, chances, values, rewards = CELLS // 2, [], [], []
    while place < CELLS - 1 and len(rewards) < LONGEST:
        choice, value = model(functional.one_hot(torch.tensor(place), CELLS).float())
        action = choice.sample()
        place = max(0, place + 2 * int(action) - 1)
        chances.append(choice.log_prob(action))
        values.append(value)
        rewards.append(1.0 if place == CELLS - 1 else -0.05)
    return chances, values, rewards


def loss_of(chances: list[Tensor], values: list[Tensor], rewards: list[float]) -> Tensor:
    returns: list[float] = []
    for reward in reversed(rewards):
        returns.insert(0, reward + DISCOUNT * (returns[0] if returns else 0.0))
    found, expected = torch.tensor(returns), torch.stack(values)
    surprise = found - expected.detach()
    return -(torch.stack(chances) * surprise).sum() + functional.smooth_l1_loss(expected, found, reduction="sum")


torch.manual_seed(0)
model = ActorCritic()
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

if "PS_SERVER" in os.environ:
    import leeway

    optimizer = leeway.wrap(optimizer, model)

torch.manual_seed(int(os.environ.get("RANK", "0")))  # each worker walks by itself
losses, steps = [], []
for _ in range(EPISODES):
    walk = episode(model)
    optimizer.zero_grad()
    loss = loss_of(*walk)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    steps.append(len(walk[2]))
print(f"steps to the end {sum(steps[:10]) / 10:.3f} -> {sum(steps[-10:]) / 10:.3f}")
