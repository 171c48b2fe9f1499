"""Two models that are trained one after the other, in plain torch, and what a test asks of them."""

from __future__ import annotations

import json
from urllib.request import urlopen

import torch
from torch import nn

PLAIN = ("--optimizer", "sgd", "--lr", "0.1")

LOSS = nn.BCEWithLogitsLoss()
REAL, FAKE = torch.ones(8, 1), torch.zeros(8, 1)


def gan():
    torch.manual_seed(1)
    generator = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    discriminator = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    return generator, discriminator


def noises(count):
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(8, 2, generator=generator) for _ in range(count)]


def discriminate(netG, netD, noise):
    """The loss of the one that tells real from fake, and the fakes, which the other's goes back through."""
    fakes = netG(noise)
    return LOSS(netD(noise.abs()), REAL) + LOSS(netD(fakes.detach()), FAKE), fakes


def status(url):
    with urlopen(f"{url}/v1/status") as reply:
        return json.load(reply)


def same(*pairs):
    return all(
        torch.equal(tensor, other.state_dict()[name])
        for net, other in pairs
        for name, tensor in net.state_dict().items()
    )


def train(netG, netD, of_g, of_d, count):
    """As a script does, with an optimizer for each."""
    for noise in noises(count):
        of_d.zero_grad()
        loss, fakes = discriminate(netG, netD, noise)
        loss.backward()
        of_d.step()
        of_g.zero_grad()
        LOSS(netD(fakes), REAL).backward()
        of_g.step()


def train_plainly(count):
    """What the session is compared with: plain torch, SGD."""
    netG, netD = gan()
    of_g, of_d = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (netG, netD))
    train(netG, netD, of_g, of_d, count)
    return netG, netD
