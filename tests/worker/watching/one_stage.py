"""A process that trains one stage of two, and prints what it shows of itself: `python -m ... URL STAGE STEPS`."""

import json
import sys

import torch
from torch import nn

import leeway
from tests.worker.watching.test_serving import scraped

INPUTS, TARGETS = torch.randn(16, 8, generator=torch.Generator().manual_seed(3)), torch.zeros(16, 4)


def model():
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))


def main(url, stage, steps):
    torch.set_num_threads(1)
    with leeway.connect(url, "r0", metrics_port=0) as session:
        pipeline = session.pipeline(model(), 2, stage, 4, loss=nn.functional.mse_loss, cut="2,1")
        for _ in range(steps):
            pipeline.step(INPUTS, TARGETS)
        last, times = pipeline.last, pipeline.times
        found = {
            "metrics": [[*name, value] for name, value in scraped(session.metrics_url).items()],
            "in_flight": last.in_flight,
            "activation_bytes": last.activation_bytes,
            "compute_seconds": times.compute_seconds,
            "bubble_seconds": times.bubble_seconds,
        }
        json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
