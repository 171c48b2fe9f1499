"""`sync` is serial SGD: four workers give what one plain PyTorch loop over the joined batches gives, and the same bits
in every run.

The workers of the recipes are threads with the real client, each recipe a group of one server with settings of its
own; those of the convolutional network are processes.
"""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import leeway
from leeway.worker.train.data.partition import ShuffleAndSplit
from leeway.worker.train.tasks.task import resolve
from tests.end_to_end.commands import CONVOLUTIONAL

pytestmark = pytest.mark.e2e

WORKERS = 4
STEPS = 8
SIZES = (16, 16, 16, 16)
UNEVEN = (7, 16, 3, 10)

INPUTS, TARGETS = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
INPUTS = INPUTS.float() / 16


def perceptron():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def normalized():
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *(nn.Conv2d(1, 4, kernel_size=3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(36, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)),
    )


class Unusual(nn.Module):
    """One layer is frozen, one never used, two share their weights, and one parameter is for w1's samples alone."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(64, 32).requires_grad_(False)
        self.there, self.back = nn.Linear(32, 32), nn.Linear(32, 32)
        self.back.weight = self.there.weight
        self.out = nn.Linear(32, 10)
        self.never = nn.Linear(5, 5)
        self.of_w1 = nn.Parameter(torch.zeros(10))

    def forward(self, inputs, whose):
        inner = self.back(self.there(self.frozen(inputs).relu()).relu()).relu()
        own = torch.tensor([[index == 1] for index in whose])
        scores = self.out(inner)
        return scores + own * self.of_w1 if own.any() else scores


@dataclass(frozen=True)
class Recipe:
    """`settings`: of the server's group. `skips`: (iteration, worker)."""

    settings: str
    optimizer: type = torch.optim.SGD
    arguments: dict = field(default_factory=dict)
    build: type = perceptron
    sizes: tuple = SIZES
    skips: tuple = ()
    clip_norm: float | None = None
    rates: tuple | None = None


def warm_cosine(step):
    return (step + 1) / 3 if step < 3 else 0.5 * (1 + np.cos(np.pi * (step - 3) / 5))


MOMENTUM = 'optimizer = "momentum"\nlr = 0.1'
WITH_MOMENTUM = {"arguments": {"lr": 0.1, "momentum": 0.9}}

RECIPES = {
    "sgd": Recipe('optimizer = "sgd"\nlr = 0.5', arguments={"lr": 0.5}),
    "momentum": Recipe(MOMENTUM, **WITH_MOMENTUM),
    "nesterov": Recipe('optimizer = "nesterov"\nlr = 0.1', arguments={"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": Recipe('optimizer = "adam"\nlr = 0.01', torch.optim.Adam, {"lr": 0.01}),
    "adamw": Recipe(
        'optimizer = "adamw"\nlr = 0.01\nweight_decay = 0.1\ndecay_vectors = true',
        torch.optim.AdamW,
        {"lr": 0.01, "weight_decay": 0.1},
    ),
    "adagrad": Recipe('optimizer = "adagrad"\nlr = 0.05\neps = 1e-10', torch.optim.Adagrad, {"lr": 0.05}),
    "rmsprop": Recipe(
        'optimizer = "rmsprop"\nlr = 0.01\nmomentum = 0.5\ncentered = true',
        torch.optim.RMSprop,
        {"lr": 0.01, "momentum": 0.5, "centered": True},
    ),
    "adadelta": Recipe('optimizer = "adadelta"\nlr = 1.0\nrho = 0.8', torch.optim.Adadelta, {"lr": 1.0, "rho": 0.8}),
    "decay": Recipe(MOMENTUM + "\nweight_decay = 0.2", **WITH_MOMENTUM),
    "clipped": Recipe(MOMENTUM + "\nclip_norm = 0.3", **WITH_MOMENTUM, clip_norm=0.3),
    "scheduled": Recipe(
        MOMENTUM + '\nlr_schedule = "cosine"\nschedule_steps = 8\nwarmup = 3',
        **WITH_MOMENTUM,
        rates=tuple(0.1 * warm_cosine(step) for step in range(STEPS)),
    ),
    "uneven": Recipe(MOMENTUM, **WITH_MOMENTUM, sizes=UNEVEN),
    "skipping": Recipe(MOMENTUM, **WITH_MOMENTUM, sizes=UNEVEN, skips=((2, 1), (3, 0), (3, 3))),
    "unusual": Recipe(MOMENTUM + "\nweight_decay = 0.01", **WITH_MOMENTUM, build=Unusual, sizes=UNEVEN),
    "batchnorm": Recipe(MOMENTUM, **WITH_MOMENTUM, build=normalized, sizes=UNEVEN),
}


def batch(recipe, clock, index):
    """The samples of one worker in one iteration."""
    draw = torch.Generator().manual_seed(1000 * clock + index)
    return torch.randint(len(INPUTS), (RECIPES[recipe].sizes[index],), generator=draw)


def scores(net, indices, whose):
    return net(INPUTS[indices], whose) if isinstance(net, Unusual) else net(INPUTS[indices])


def loss_of(net, recipe, clock, workers):
    """The mean loss over the joined batches of these workers."""
    batches = [batch(recipe, clock, index) for index in workers]
    whose = [index for index, indices in zip(workers, batches, strict=True) for _ in indices]
    indices = torch.cat(batches)
    return functional.cross_entropy(scores(net, indices, whose), TARGETS[indices]), len(indices)


def fresh(recipe):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return RECIPES[recipe].build()


def train(url, recipe, index, net):
    """One worker: the three lines of a training script of one's own."""
    with leeway.connect(url, f"{recipe}-w{index}", group=recipe) as session:
        session.attach(nn.ModuleDict({recipe: net}))
        while session.clock < STEPS:
            if (session.clock, index) in RECIPES[recipe].skips:
                session.skip()
                continue
            loss, samples = loss_of(net, recipe, session.clock, [index])
            loss.backward()
            session.step(samples=samples)
        return {name: value.clone() for name, value in net.state_dict().items()}


def plain(recipe):
    """The same by one process."""
    net, how = fresh(recipe), RECIPES[recipe]
    parameters = [one for one in net.parameters() if one.requires_grad]
    if recipe in ("decay", "unusual"):
        decay = 0.2 if recipe == "decay" else 0.01
        parameters = [
            {"params": [one for one in parameters if one.ndim > 1], "weight_decay": decay},
            {"params": [one for one in parameters if one.ndim <= 1]},
        ]
    fused = {} if how.optimizer in (torch.optim.RMSprop, torch.optim.Adadelta) else {"fused": True}
    optimizer = how.optimizer(parameters, **how.arguments, **fused)
    for clock in range(STEPS):
        workers = [index for index in range(WORKERS) if (clock, index) not in how.skips]
        if how.build is normalized:
            step_by_parts(net, recipe, clock)
        else:
            loss_of(net, recipe, clock, workers)[0].backward()
        if how.clip_norm:
            nn.utils.clip_grad_norm_(net.parameters(), how.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = how.rates[clock] if how.rates else group["lr"]
        optimizer.step()
        optimizer.zero_grad()
    return net.state_dict()


def step_by_parts(net, recipe, clock):
    """Batch normalization is about a worker's own batch: the gradients are added up, the statistics are those of all
    samples together."""
    parts = [copy.deepcopy(net) for _ in range(WORKERS)]
    total = sum(RECIPES[recipe].sizes)
    for index, part in enumerate(parts):
        loss, samples = loss_of(part, recipe, clock, [index])
        (loss * samples / total).backward()
    for name, parameter in net.named_parameters():
        parameter.grad = sum(part.get_parameter(name).grad for part in parts)
    shares = [size / total for size in RECIPES[recipe].sizes]
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            those = [part.get_submodule(name) for part in parts]
            mean = sum(share * one.running_mean for share, one in zip(shares, those, strict=True))
            square = sum(
                share * (one.running_var + one.running_mean**2) for share, one in zip(shares, those, strict=True)
            )
            module.running_mean.copy_(mean)
            module.running_var.copy_(square - mean**2)
            module.num_batches_tracked += 1


@pytest.fixture(scope="module")
def runs(shared_commands):
    """What each worker holds at the end, by recipe, of two runs with servers of their own."""
    return [run(shared_commands) for _ in range(2)]


def run(commands):
    tables = [f'[group.{name}]\nkeys = ["{name}.*"]\n{recipe.settings}' for name, recipe in RECIPES.items()]
    (commands.folder / "leeway.toml").write_text("\n".join(tables))
    server = commands.serve("--config", "leeway.toml", "--mode", "sync", "--workers", WORKERS)
    results = {}
    with ThreadPoolExecutor(WORKERS) as threads:
        for recipe in RECIPES:
            nets = [fresh(recipe) for _ in range(WORKERS)]
            working = [threads.submit(train, server.url, recipe, index, net) for index, net in enumerate(nets)]
            results[recipe] = [one.result() for one in working]
    server.stop()
    return results


@pytest.mark.parametrize("recipe", RECIPES)
def test_four_workers_are_one_plain_loop(runs, recipe):
    expected = plain(recipe)
    learned, *others = runs[0][recipe]
    begun = fresh(recipe).state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(
            learned[name], value, rtol=1e-4, atol=2e-6, msg=lambda said, name=name: f"{name}: {said}"
        )
        stays = name.startswith(("frozen", "never"))
        assert torch.equal(learned[name], begun[name]) == stays, name
    for other in others:
        assert all(torch.equal(other[name], value) for name, value in learned.items()), "all have pulled the same"


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_runs_have_the_same_bits(runs, recipe):
    first, second = (run[recipe][0] for run in runs)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


BATCH_SIZE, RATE, SEED = 24, 0.2, 3


@pytest.fixture(scope="module")
def convolutional(shared_commands):
    """What two runs of four `ps-worker` processes have learned."""
    return [run_convolutional(shared_commands) for _ in range(2)]


def run_convolutional(commands):
    server = commands.serve("--mode", "sync", "--workers", WORKERS, "--lr", RATE)
    flags = ("--steps", STEPS, "--batch-size", BATCH_SIZE, "--seed", SEED)
    for process in commands.workers(WORKERS, CONVOLUTIONAL, server, *flags):
        process.wait()
    parameters = server.parameters()
    server.stop()
    return parameters


def test_four_processes_are_one_plain_loop(convolutional, tmp_path):
    task = resolve(CONVOLUTIONAL)(tmp_path, None)
    model = task.model(SEED)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    partition = ShuffleAndSplit(task.train_samples(), BATCH_SIZE, SEED)
    for clock in range(STEPS):
        joined = np.concatenate([partition.batch(clock, index, WORKERS) for index in range(WORKERS)])
        optimizer.zero_grad()
        task.loss(model, *task.batch(joined, torch.device("cpu"))).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(convolutional[0][name], value, rtol=1e-4, atol=2e-6)


def test_two_runs_of_four_processes_have_the_same_bits(convolutional):
    first, second = convolutional
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
