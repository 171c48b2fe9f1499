"""A plain PyTorch training script, turned into a worker by the three lines that are marked.

Start a server and, in other terminals, as many of these as you like:

    ps-serve --mode ssp --staleness 3 --workers 2 --lr 0.2 --until 300
    python examples/own_script.py http://127.0.0.1:8080 w0
    python examples/own_script.py http://127.0.0.1:8080 w1

Without arguments the server is taken from the environment variable PS_SERVER, and the rank from torchrun, Slurm or
Kubernetes where there is one. The optimizer is the server's: there is none in here.
"""

import sys
import zlib

import torch
from sklearn.datasets import load_digits
from torch import nn

import leeway

inputs, targets = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
inputs = inputs.float() / 16
train, test = slice(0, 1500), slice(1500, None)

torch.set_num_threads(1)  # the workers share this machine's cores
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
loss_of = nn.CrossEntropyLoss()

session = leeway.connect(*sys.argv[1:3])  # 1: reach the server
session.attach(model)  # 2: start from the same weights as everybody

draw = torch.Generator().manual_seed(zlib.crc32(session.rank.encode()))
while not session.finished:
    batch = torch.randint(1500, (32,), generator=draw)
    loss = loss_of(model(inputs[train][batch]), targets[train][batch])
    loss.backward()
    session.step(samples=len(batch), metrics={"loss": loss.item()})  # 3: in place of optimizer.step()

with torch.no_grad():
    accuracy = (model(inputs[test]).argmax(1) == targets[test]).float().mean().item()
print(f"{session.rank}: {session.clock} iterations, test accuracy {accuracy:.3f}")
session.close()
