"""A graph convolutional network: three communities of a drawn graph, told from a few members of each. The whole graph
is one batch; dropout, weight decay, a sparse matrix of neighbours.

    python examples/scripts/gcn.py                      plain torch
    PS_SERVER=http://127.0.0.1:8080 python ...          a worker; RANK and WORLD_SIZE say which of how many
"""

import os

import torch
from torch import Tensor, nn
from torch.nn import functional

STEPS, NODES, COMMUNITIES, TOLD = 40, 150, 3, 30


def graph() -> tuple[Tensor, Tensor, Tensor]:
    """Of each node features and community, and the matrix that takes the mean over neighbours, both ways."""
    draw = torch.Generator().manual_seed(1)
    community = torch.arange(NODES) % COMMUNITIES
    likely = torch.where(community[:, None] == community, 0.15, 0.01)
    linked = torch.rand(NODES, NODES, generator=draw).triu(1) > 1 - likely.triu(1)
    links = (linked | linked.T | torch.eye(NODES, dtype=torch.bool)).float()
    scale = links.sum(1).rsqrt()
    features = functional.one_hot(community, COMMUNITIES) * 0.5 + torch.randn(NODES, COMMUNITIES, generator=draw)
    return features, community, (scale[:, None] * links * scale).to_sparse_coo()


class Convolutions(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(COMMUNITIES, width), nn.Linear(width, COMMUNITIES)

    def forward(self, features: Tensor, neighbours: Tensor) -> Tensor:
        inner = torch.sparse.mm(neighbours, self.first(features)).relu()
        return torch.sparse.mm(neighbours, self.second(functional.dropout(inner, 0.5, self.training)))


features, community, neighbours = graph()
rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
told = torch.arange(TOLD)[rank::world]  # each worker is told the communities of other nodes

torch.manual_seed(0)
model = Convolutions()
optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=5e-4)

if "PS_SERVER" in os.environ:
    import leeway

    optimizer = leeway.wrap(optimizer, model, samples=len(told))

torch.manual_seed(rank)
losses = []
for _ in range(STEPS):
    model.train()
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(features, neighbours)[told], community[told])
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
model.eval()
with torch.no_grad():
    right = (model(features, neighbours).argmax(1) == community)[TOLD:].float().mean().item()
print(f"loss {losses[0]:.3f} -> {sum(losses[-5:]) / 5:.3f}, {right:.0%} of the others told right")
