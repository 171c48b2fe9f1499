"""A process that trains one stage of two, and says where its metrics are: `python staged.py URL RANK STAGE NAP`.

Its computing is sleep: `NAP` seconds in the forward pass of each micro-batch.
"""

import sys
import time

import torch
from torch import nn

import leeway

INPUTS, TARGETS = torch.ones(8, 4), torch.zeros(8, 2)


class Nap(nn.Module):
    def forward(self, inputs):
        time.sleep(float(sys.argv[4]))
        return inputs


def main(url, rank, stage):
    torch.set_num_threads(1)
    with torch.device("meta"):
        model = nn.Sequential(Nap(), nn.Linear(4, 2), nn.Linear(2, 2), Nap())
    with leeway.connect(url, rank, metrics_port=0) as session:
        print(session.metrics_url, flush=True)
        pipeline = session.pipeline(model, 2, stage, 4, loss=nn.functional.mse_loss, cut="2,2")
        while not pipeline.finished:
            pipeline.step(INPUTS, TARGETS)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
