"""A variational autoencoder of scikit-learn's digits: Adam, noise drawn in the forward pass.

python examples/scripts/vae.py                      plain torch
PS_SERVER=http://127.0.0.1:8080 python ...          a worker; RANK and WORLD_SIZE say which of how many
"""

import os

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

STEPS, BATCH_SIZE = 60, 64


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(48, 8), nn.Linear(48, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 64))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inner = self.encoder(images)
        mean, log_variance = self.mean(inner), self.log_variance(inner)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(code), mean, log_variance


def loss_of(images: Tensor, logits: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """What the decoder misses, and how far the codes are from a normal distribution, for each image."""
    missed = functional.binary_cross_entropy_with_logits(logits, images, reduction="sum")
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
    return (missed + divergence) / len(images)


images = torch.from_numpy(load_digits().data).float() / 16
torch.manual_seed(0)
model = Autoencoder()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

if "PS_SERVER" in os.environ:
    import leeway

    optimizer = leeway.wrap(optimizer, model)

torch.manual_seed(int(os.environ.get("RANK", "0")))  # each worker draws batches and noise of its own
losses = []
for _ in range(STEPS):
    batch = images[torch.randint(len(images), (BATCH_SIZE,))]
    optimizer.zero_grad()
    loss = loss_of(batch, *model(batch))
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"loss {losses[0]:.3f} -> {sum(losses[-5:]) / 5:.3f}")
