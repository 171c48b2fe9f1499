"""How much memory a process takes that trains a large model: the whole of it, or a stage. Says the peak beyond that of
an idle process, in MiB.

`main([settings])`: a JSON object with `url`, `stages` (0: one worker with the whole model, whose batch goes in one go),
`stage`, `micro_batches`.
"""

import json
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import leeway

WIDTH, LAYERS, SAMPLES, STEPS = 1024, 48, 256, 2


def model():
    layers = [nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)]
    return nn.Sequential(*(nn.Sequential(layer, nn.ReLU()) for layer in layers))


def loss(output, target):
    return functional.mse_loss(output, target)


def peak_mib():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main(given):
    settings = json.loads(given[0])
    torch.set_num_threads(1)
    nn.Linear(8, 8)(torch.randn(2, 8)).sum().backward()
    idle = peak_mib()
    draw = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(SAMPLES, WIDTH, generator=draw), torch.randn(SAMPLES, WIDTH, generator=draw)
    with leeway.connect(settings["url"], "w0") as session:
        (stage if settings["stages"] else worker)(session, settings, inputs, targets)
        print(json.dumps({"peak": peak_mib() - idle}), flush=True)


def worker(session, settings, inputs, targets):
    whole = model()
    session.attach(whole)
    for _ in range(STEPS):
        loss(whole(inputs), targets).backward()
        session.step(samples=SAMPLES)
        whole.zero_grad()


def stage(session, settings, inputs, targets):
    with torch.device("meta"):
        whole = model()
    pipeline = session.pipeline(
        whole,
        settings["stages"],
        settings["stage"],
        settings["micro_batches"],
        loss=loss,
        cut="memory",
        example=inputs,
    )
    for _ in range(STEPS):
        pipeline.step(inputs, targets)
    print(json.dumps({"cut": pipeline.plan.cut}), flush=True)
