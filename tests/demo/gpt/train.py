"""The training script: plain PyTorch with an optimizer and a schedule of its own; two lines make a worker of it.

Each worker of the demo is this, with PS_SERVER and PS_RANK in its environment, until it gets SIGTERM. The arguments are
for how many seconds it sleeps in each iteration, and how many workers begin together.
"""

from __future__ import annotations

import signal
import sys
import time
import zlib
from contextlib import suppress

import torch

import leeway
from tests.demo.gpt.model import LENGTH, Gpt
from tests.demo.gpt.text import batch, load

BATCH_SIZE = 16
LEARNING_RATE = 6e-3
WARMUP = 20


def main(nap_seconds: float, together: int) -> None:
    text = load()
    torch.manual_seed(0)
    model = Gpt(len(text.alphabet))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=WARMUP)

    session = leeway.connect(start_together=together)
    signal.signal(signal.SIGTERM, lambda *_: session.close())
    session.wrap(optimizer, model, samples=BATCH_SIZE)
    with suppress(leeway.SessionClosed):
        while not session.finished:
            draw = torch.Generator().manual_seed(zlib.crc32(f"{session.rank} {session.clock}".encode()))
            loss = model.loss(*batch(text.train, BATCH_SIZE, LENGTH, draw))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            time.sleep(nap_seconds)
            session.report(loss=loss.item())
            optimizer.step()
            schedule.step()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
