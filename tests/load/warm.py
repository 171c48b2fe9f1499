"""What takes seconds to import, imported once: `forks` has its fork server import this.

The one rule: nothing is computed here, and no thread is started: a fork must find the process as imports leave it.
"""

from __future__ import annotations

import importlib
import os

# The user's own settings of Leeway, and what a launcher says about this process, are not those of our processes.
_FOREIGN = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "JOB_COMPLETION_INDEX")

for _name in [name for name in os.environ if name.startswith("PS_") or name in _FOREIGN]:
    del os.environ[_name]
# Five processes share few cores: more threads each would only get in each other's way.
os.environ |= {"OMP_NUM_THREADS": "1", "NO_PROXY": "*"}

for _module in (
    "torch",
    "torch._dynamo",  # DistributedDataParallel imports it when it is made
    "torch.distributed",
    "torch.nn.parallel",
    "safetensors.torch",
    "sklearn.datasets",
    "uvloop",
    "leeway.ps.cli",
    "leeway.ps.server.lifecycle",
    "leeway.worker.train.cli",
    "leeway.worker.train.trainer",
    "leeway.worker.train.tasks.digits",
    "leeway.worker.train.tasks.mnist",
    "tests.bench.ddp",
    "tests.load.proxy",
    "tests.load.tunnel",
):
    importlib.import_module(_module)

importlib.import_module("torch").set_num_threads(1)
