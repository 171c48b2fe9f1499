"""A generative adversarial network that draws points of a ring: two models with an optimizer each, stepped in turn.

python examples/scripts/gan.py                      plain torch
PS_SERVER=... python examples/scripts/gan.py        a worker
"""

import os

import torch
from torch import Tensor, nn

STEPS, BATCH_SIZE, NOISE = 60, 64, 4


def real(count: int) -> Tensor:
    angle = torch.rand(count) * 2 * torch.pi
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(count, 2)


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, outputs)
    )


torch.manual_seed(0)
generator, discriminator = perceptron(NOISE, 2), perceptron(2, 1)
generator_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
loss_of = nn.BCEWithLogitsLoss()
if "PS_SERVER" in os.environ:
    import leeway

    session = leeway.connect()
    session.attach({"G": generator, "D": discriminator})
    generator_optimizer = session.wrap(generator_optimizer)
    discriminator_optimizer = session.wrap(discriminator_optimizer)

torch.manual_seed(int(os.environ.get("RANK", "0")))  # each worker draws points and noise of its own
losses, fake = [], torch.zeros(BATCH_SIZE, 2)
for _ in range(STEPS):
    # What is real and what is not: the generator is no part of it.
    discriminator_optimizer.zero_grad()
    on_real = loss_of(discriminator(real(BATCH_SIZE)), torch.ones(BATCH_SIZE, 1))
    on_real.backward()
    fake = generator(torch.randn(BATCH_SIZE, NOISE))
    on_fake = loss_of(discriminator(fake.detach()), torch.zeros(BATCH_SIZE, 1))
    on_fake.backward()
    discriminator_optimizer.step()
    # The same points once more, through the discriminator as it is now; its own gradients are not used.
    generator_optimizer.zero_grad()
    deceived = loss_of(discriminator(fake), torch.ones(BATCH_SIZE, 1))
    deceived.backward()
    generator_optimizer.step()
    losses.append((on_real + on_fake + deceived).item())
missed = (fake.detach().norm(dim=1) - 1).abs().mean().item()
print(f"loss {losses[0]:.3f} -> {sum(losses[-5:]) / 5:.3f}, {missed:.2f} from the ring")
