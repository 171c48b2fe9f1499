"""No stage ever has the whole model in memory, nor does who measures it."""

import subprocess
import sys

import pytest

# 12 layers of 16 MiB; the peak of memory beyond that of an idle process, in MiB.
PROGRAM = """
import sys
import torch
from torch import nn
from leeway.worker.pipeline.layers import Layers
from leeway.worker.pipeline.measuring import measure
from leeway.worker.pipeline.stage import build

def peak_mib():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

torch.set_num_threads(1)
nn.Linear(8, 8)(torch.randn(2, 8)).sum().backward()
idle = peak_mib()
with torch.device("meta"):
    layers = Layers(nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(12))))
kept = build(layers, (10, 2), 1, 0) if sys.argv[1] == "stage" else measure(layers, torch.randn(2, 2048), runs=1)
print(peak_mib() - idle)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("what", "layers"), [("stage", 2), ("measuring", 1)])
def test_the_peak_is_that_of_the_layers_that_are_real(what, layers):
    run = subprocess.run([sys.executable, "-c", PROGRAM, what], capture_output=True, text=True, check=True, timeout=120)
    # When a layer is measured there are its gradients too, and what torch needs for a product.
    most_mib = 16 * layers + 24 if what == "stage" else 112
    assert 16 * layers <= float(run.stdout) < most_mib < 12 * 16
