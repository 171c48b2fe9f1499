"""A training script for Hugging Face's Accelerate, turned into a worker by the lines that are marked.

Start a server and, in other terminals, as many of these as you like, with plain `python`:

    ps-serve --mode sync --workers 2
    python examples/with_accelerate.py http://127.0.0.1:8080 w0
    python examples/with_accelerate.py http://127.0.0.1:8080 w1

Without arguments PS_SERVER and PS_RANK say where and who. Four batches make a step; each step of AdamW, with its
schedule and clipping, is an iteration. Needs `pip install '.[tasks,transformers]'` in your clone.
"""

import sys

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import leeway

EPOCHS = 3

inputs, targets = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
inputs = inputs.float() / 16
data = TensorDataset(inputs[:1500], targets[:1500])

torch.set_num_threads(1)  # the workers share this machine's cores
torch.manual_seed(0)
accelerator = Accelerator(gradient_accumulation_steps=4)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)

session = leeway.connect(*sys.argv[1:3])  # 1: reach the server
loader = DataLoader(data, batch_size=32, sampler=leeway.Sampler(data, session))  # 2: read a share of the data
model, optimizer, scheduler, loader = accelerator.prepare(model, optimizer, scheduler, loader)
optimizer = session.wrap(optimizer, model)  # 3: each step is an iteration

for x, y in session.epochs(loader, EPOCHS):  # 4: end with the run
    with accelerator.accumulate(model):
        loss = nn.functional.cross_entropy(model(x), y)
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()

with torch.no_grad():
    accuracy = (model(inputs[1500:].to(accelerator.device)).argmax(1).cpu() == targets[1500:]).float().mean().item()
print(f"{session.rank}: {session.clock} iterations, test accuracy {accuracy:.3f}")
session.close()
