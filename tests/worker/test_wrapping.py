"""`leeway.wrap`: a script with an optimizer of its own, against `ps-serve` itself, beside the same script without."""

import copy
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
import torch
from structlog.testing import capture_logs
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

import leeway
from tests.worker.test_against_server import serving

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("one_thread")]

STEPS = 30
DATA = TensorDataset(torch.randn(320, 8, generator=torch.Generator().manual_seed(3)), torch.arange(320) % 4)


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def loader():
    return DataLoader(DATA, batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(5))


def loss_of(net, batch):
    inputs, targets = batch
    return nn.functional.cross_entropy(net(inputs), targets)


def batches(count=STEPS):
    def again():
        while True:
            yield from loader()

    return islice(again(), count)


def groups_of(net):
    """Weight decay for matrices alone, as language models have it."""
    matrices = [parameter for parameter in net.parameters() if parameter.dim() > 1]
    rest = [parameter for parameter in net.parameters() if parameter.dim() <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=0.01
    )


OPTIMIZERS = {
    "adadelta": lambda net: torch.optim.Adadelta(net.parameters()),
    "adamw with groups": groups_of,
    "rmsprop": lambda net: torch.optim.RMSprop(net.parameters(), lr=1e-3, momentum=0.9),
    "sgd": lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True),
    "fused adam": lambda net: torch.optim.Adam(net.parameters(), lr=0.01, fused=True),
}


def script(make, wrap=lambda optimizer, net: optimizer, read=batches):
    """A training script. Only one line of it is another with a server."""
    net = model()
    optimizer = make(net)
    optimizer = wrap(optimizer, net)
    schedule = StepLR(optimizer, 7, 0.5)
    for batch in read():
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return net, optimizer


def equal(net, other):
    return {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, other.state_dict()[name])}


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_one_worker_it_is_the_unchanged_script_in_all_digits(name, mode):
    expected, _ = script(OPTIMIZERS[name])
    with serving("--mode", mode, "--lr", "1") as (_, url):
        found, optimizer = script(
            OPTIMIZERS[name], lambda optimizer, net: leeway.wrap(optimizer, net, url=url, rank="w0")
        )
        with optimizer.session as session:
            assert equal(expected, found) == set()
            assert session.clock == STEPS


def test_what_the_server_has_is_within_a_rounding_of_it():
    with serving("--lr", "1") as (_, url):
        found, optimizer = script(groups_of, lambda optimizer, net: leeway.wrap(optimizer, net, url=url, rank="w0"))
        here = copy.deepcopy(found.state_dict())
        with optimizer.session as session:
            session.pull()
            for name, tensor in found.state_dict().items():
                torch.testing.assert_close(tensor, here[name], rtol=2e-7, atol=1e-9)


def test_local_steps_and_accumulation():
    def make(net):
        return torch.optim.Adam(net.parameters(), lr=0.01)

    expected, _ = script(make)
    with serving("--lr", "1") as (_, url):
        found, optimizer = script(make, lambda optimizer, net: leeway.wrap(optimizer, net, url=url, rank="w0", every=4))
        with optimizer.session as session:
            assert session.clock == STEPS // 4
            for name, tensor in found.state_dict().items():
                torch.testing.assert_close(tensor, expected.state_dict()[name])


def test_gradients_stay_the_scripts():
    net = model()
    with serving("--lr", "1") as (_, url):
        optimizer = leeway.wrap(torch.optim.SGD(net.parameters(), lr=0.1), net, url=url, rank="w0")
        with optimizer.session:
            loss_of(net, next(batches())).backward()
            before = [parameter.grad.clone() for parameter in net.parameters()]
            optimizer.step()
            assert all(
                torch.equal(parameter.grad, grad) for parameter, grad in zip(net.parameters(), before, strict=True)
            )


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_leaves_out_is_no_iteration(fused):
    net = model()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with serving("--lr", "1") as (_, url):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01, fused=fused)
        leeway.wrap(optimizer, net, url=url, rank="w0")
        with optimizer.session as session:
            for place, batch in enumerate(batches(4)):
                optimizer.zero_grad()
                loss = loss_of(net, batch)
                scaler.scale(loss * (float("inf") if place == 1 else 1.0)).backward()
                scaler.step(optimizer)
                scaler.update()
            assert session.clock == 3


def test_closures():
    def train(wrap):
        net = model()
        optimizer = wrap(torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=4), net)
        batch = next(batches())

        def closure():
            optimizer.zero_grad()
            loss = loss_of(net, batch)
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        return net, optimizer

    expected, _ = train(lambda optimizer, net: optimizer)
    with serving("--lr", "1") as (_, url):
        found, optimizer = train(lambda optimizer, net: leeway.wrap(optimizer, net, url=url, rank="w0"))
        with optimizer.session as session:
            assert session.clock == 3
            assert equal(expected, found) == set()


def test_two_optimizers_for_parts_of_one_model():
    def train(wrap):
        net = model()
        one_half = torch.optim.SGD(net[0].parameters(), lr=0.1)
        other_half = torch.optim.Adam(net[3].parameters(), lr=0.01)
        wrap(net, one_half, other_half)
        for batch in batches(10):
            one_half.zero_grad()
            other_half.zero_grad()
            loss_of(net, batch).backward()
            one_half.step()
            other_half.step()
        return net

    def wrapped(net, one_half, other_half):
        session.wrap(one_half, net)
        session.wrap(other_half)

    expected = train(lambda *_: None)
    with serving("--lr", "1") as (_, url), leeway.connect(url, "w0") as session:
        assert equal(expected, train(wrapped)) == set()
        assert session.clock == 20


def test_a_step_before_the_way_back_from_another_loss():
    """An actor is stepped while the critic's graph waits: what has not changed at the server is not written to."""

    def train(wrap):
        net = nn.ModuleDict({"actor": model(), "critic": model()})
        optimizers = [torch.optim.Adam(part.parameters(), lr=0.01) for part in net.values()]
        wrap(net, optimizers)
        for batch in batches(6):
            losses = [loss_of(part, batch) for part in net.values()]
            for optimizer, loss in zip(optimizers, losses, strict=True):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return net

    def wrapped(net, optimizers):
        for optimizer in optimizers:
            session.wrap(optimizer, net)

    expected = train(lambda *_: None)
    with serving("--lr", "1") as (_, url), leeway.connect(url, "w0") as session:
        assert equal(expected, train(wrapped)) == set()
        assert session.clock == 12


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, as it compiles
def test_a_step_that_is_compiled():
    def train(wrap):
        net = nn.Linear(8, 4)
        with torch.no_grad():
            net.weight.fill_(0.1), net.bias.zero_()
        optimizer = wrap(torch.optim.Adam(net.parameters(), lr=0.01), net)
        step = torch.compile(optimizer.step, backend="eager")
        for batch in batches(4):
            optimizer.zero_grad()
            loss_of(net, batch).backward()
            step()
        return net, optimizer

    expected, _ = train(lambda optimizer, net: optimizer)
    with serving("--lr", "1") as (_, url):
        found, optimizer = train(lambda optimizer, net: leeway.wrap(optimizer, net, url=url, rank="w0"))
        with optimizer.session as session:
            assert session.clock == 4
            assert equal(expected, found) == set()


def test_two_workers_in_rounds_are_one_process_on_the_joined_batch():
    torch.manual_seed(1)
    one_process = nn.Linear(8, 4)
    start = copy.deepcopy(one_process)
    optimizer = torch.optim.SGD(one_process.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    halves = [[tuple(part[place::2] for part in batch) for batch in batches(12)] for place in range(2)]
    for batch in zip(*halves, strict=True):
        optimizer.zero_grad()
        sum(loss_of(one_process, half) / 2 for half in batch).backward()
        optimizer.step()

    def work(place):
        net = copy.deepcopy(start)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        leeway.wrap(optimizer, net, url=url, rank=f"w{place}")
        with optimizer.session:
            for half in halves[place]:
                optimizer.zero_grad()
                loss_of(net, half).backward()
                optimizer.step()
        return net

    with serving("--workers", "2", "--lr", "1") as (_, url), ThreadPoolExecutor(2) as threads:
        for net in threads.map(work, range(2)):
            for parameter, expected in zip(net.parameters(), one_process.parameters(), strict=True):
                torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6)


def test_on_arrival_a_delta_counts_its_share_of_the_workers():
    with serving("--workers", "1", "--mode", "async", "--lr", "1", "--delta-scale", "0.25") as (_, url):
        net = nn.Linear(2, 1, bias=False)
        before = net.weight.detach().clone()
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        leeway.wrap(optimizer, net, url=url, rank="w0")
        with optimizer.session:
            net(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            torch.testing.assert_close(net.weight, before - 0.25)


def test_the_end_of_the_run_is_the_scripts_to_see():
    with serving("--lr", "1", "--until", "5") as (process, url), capture_logs() as logs:
        net = model()
        optimizer = leeway.wrap(torch.optim.SGD(net.parameters(), lr=0.1), net, url=url, rank="w0")
        seen = 0
        for batch in optimizer.session.epochs(loader()):
            loss_of(net, batch).backward()
            optimizer.step()
            seen += 1
        assert (seen, optimizer.session.finished) == (5, True)
        for _ in range(3):  # a loop that does not look goes on by itself
            optimizer.step()
        assert [row["event"] for row in logs].count("the run is over, steps are pushed no more") == 1
        optimizer.session.close()
        assert process.wait(30) == 0


def test_weights_are_the_samples_that_were_read():
    with serving("--lr", "1") as (_, url):
        net = model()
        optimizer = leeway.wrap(torch.optim.SGD(net.parameters(), lr=0.1), net, url=url, rank="w0", every=2)
        with optimizer.session as session, capture_logs() as logs:
            for batch in islice(session.epochs(loader()), 4):
                loss_of(net, batch).backward()
                optimizer.step()
            assert session.samples.count == 0
            session.report(loss=0.5)
            assert not logs


def test_with_the_servers_optimizer_the_script_is_only_a_carrier():
    flags = ("--optimizer", "momentum", "--lr", "0.05")
    expected, _ = script(lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9), read=lambda: batches(6))

    def train(url):
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=123.0)
        leeway.wrap(optimizer, net, url=url, rank="w0", server_optimizer=True)
        for batch in batches(6):
            optimizer.zero_grad()
            loss_of(net, batch).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        return net, optimizer

    with serving(*flags) as (_, url), capture_logs() as logs:
        found, optimizer = train(url)
        with optimizer.session:
            for name, tensor in found.state_dict().items():
                torch.testing.assert_close(tensor, expected.state_dict()[name], rtol=1e-4, atol=1e-5)
    assert [row["event"] for row in logs].count("the server's optimizer makes the steps") == 1


@pytest.mark.parametrize("named", [False, True])
def test_with_the_servers_optimizer_a_closure_is_called_once_before_the_push(named):
    """As frameworks step, which clip within it."""
    called = []

    def train(optimizer, net):
        for batch in batches(5):

            def closure(batch=batch):
                optimizer.zero_grad()
                loss = loss_of(net, batch)
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 0.1)
                called.append(loss.item())
                return loss

            returned = optimizer.step(closure=closure) if named else optimizer.step(closure)
            assert returned.item() == called[-1]

    expected, found = model(), model()
    train(torch.optim.SGD(expected.parameters(), lr=0.5), expected)
    with serving("--lr", "0.5") as (_, url):
        optimizer = torch.optim.SGD(found.parameters(), lr=123.0)
        leeway.wrap(optimizer, found, url=url, rank="w0", server_optimizer=True)
        with optimizer.session as session:
            train(optimizer, found)
            loss_of(found, next(batches())).backward()
            optimizer.step(None)  # no closure, as Accelerate says it
            assert session.clock == 6
    assert len(called) == 10
    assert called[:5] == pytest.approx(called[5:], rel=1e-4)


def test_the_server_steps_what_the_scripts_optimizer_has_and_nothing_else():
    """Parts with an optimizer each, and one that has none though gradients come to it."""

    def train(wrap):
        net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        with torch.no_grad():
            for place, parameter in enumerate(net.parameters()):
                parameter.normal_(generator=torch.Generator().manual_seed(place))
        optimizers = [torch.optim.SGD(net[place].parameters(), lr=0.1) for place in (0, 4)]
        wrap(net, optimizers)
        for batch in batches(4):
            net.zero_grad()
            loss_of(net, batch).backward()
            before = net[2].weight.grad
            for optimizer in optimizers:
                optimizer.step()
            assert net[2].weight.grad is before
        return net

    def wrapped(net, optimizers):
        for optimizer in optimizers:
            session.wrap(optimizer, net, server_optimizer=True)

    expected = train(lambda *_: None)
    with serving("--lr", "0.1") as (_, url), leeway.connect(url, "w0") as session:
        found = train(wrapped)
        assert session.clock == 8
        for name, tensor in found.state_dict().items():
            torch.testing.assert_close(tensor, expected.state_dict()[name])
        assert torch.equal(found[2].weight, expected[2].weight)


def test_the_scripts_schedule_drives_the_servers_rate():
    with serving("--lr", "0.5") as (_, url):
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        schedule = CosineAnnealingLR(optimizer, 5)
        leeway.wrap(optimizer, net, url=url, rank="w0", server_optimizer=True, lr="script")
        with optimizer.session as session:
            for batch in batches(4):
                rate = optimizer.param_groups[0]["lr"]
                loss_of(net, batch).backward()
                optimizer.step()
                assert session.server_optimizer()["lr"] == rate
                schedule.step()


def test_another_optimizer_on_the_server_is_told_once():
    with serving("--optimizer", "adam", "--lr", "0.5", "--clip-norm", "1") as (_, url):
        net = model()
        optimizer = leeway.wrap(torch.optim.SGD(net.parameters(), lr=0.1), net, url=url, rank="w0")
        with optimizer.session:
            loss_of(net, next(batches())).backward()
            with pytest.warns(UserWarning, match=r"by its own: kind adam, lr 0.5, clip_norm 1") as told:
                optimizer.step()
            assert told[0].filename == __file__
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                optimizer.step()


def test_a_first_step_that_is_refused_says_nothing_of_the_servers_optimizer():
    with serving() as (_, url):
        net = model()
        optimizer = leeway.wrap(torch.optim.SGD(net.parameters(), lr=0.1), net, url=url, rank="w0")
        with optimizer.session, warnings.catch_warnings():
            warnings.simplefilter("error")
            for scale in (torch.inf, 1.0):
                optimizer.zero_grad()
                (loss_of(net, next(batches())) * scale).backward()
                optimizer.step()
            assert optimizer.session.server_optimizer()["lr"] == 1.0


@pytest.mark.parametrize(
    ("make", "flags", "wanted"),
    [
        (torch.optim.AdamW, (), "has AdamW, and the server steps default with sgd with lr 0.1.*--optimizer adamw"),
        (torch.optim.AdamW, ("--optimizer", "adamw", "--lr", "0.001"), None),
        (torch.optim.SGD, ("--optimizer", "nesterov"), None),
        (torch.optim.Rprop, (), None),
    ],
)
def test_a_carrier_of_another_kind_than_the_servers_optimizer_is_told(make, flags, wanted):
    net = model()
    with serving(*flags) as (_, url), capture_logs() as logs, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        optimizer = leeway.wrap(make(net.parameters(), lr=0.001), net, url=url, rank="w0", server_optimizer=True)
        optimizer.session.close()
    (line,) = [row for row in logs if row["event"] == "the server's optimizer makes the steps"]
    assert f"; {make.__name__} finds no gradients" in line["detail"]
    found = [str(one.message) for one in told if "server steps" in str(one.message)]
    assert bool(found) is bool(wanted)
    assert not wanted or re.search(wanted, found[0])


@pytest.fixture(scope="module")
def url():
    with serving("--lr", "1") as (_, url):
        yield url


class TestRefused:
    def wrap(self, url, optimizer, net, words, **options):
        with pytest.raises(ValueError, match=words):
            leeway.wrap(optimizer, net, url=url, rank="refused", **options)

    def test_before_a_server_has_heard_of_it(self):
        net = model()
        sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        nowhere = "http://127.0.0.1:1"
        self.wrap(nowhere, sgd, net, "every is 0, it must be at least 1", every=0)
        self.wrap(nowhere, sgd, net, "server_optimizer is 'no', it must be True or False", server_optimizer="no")
        self.wrap(nowhere, sgd, model(), "6 of the optimizer's parameters are not of the")
        self.wrap(nowhere, torch.optim.SGD([{"params": []}], lr=0.1), net, "the optimizer has no parameters")

    def test_options(self, url):
        net = model()
        sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        self.wrap(url, sgd, net, "every is 0, it must be at least 1", every=0)
        self.wrap(url, sgd, net, "samples is 0", samples=0)
        self.wrap(url, sgd, net, "lr is 'mine'", lr="mine", server_optimizer=True)
        self.wrap(url, sgd, net, "lr='script' is for server_optimizer=True", lr="script")
        self.wrap(url, sgd, net, "every is for the script's own steps", every=2, server_optimizer=True)
        self.wrap(url, torch.optim.LBFGS(net.parameters()), net, "LBFGS computes gradients", server_optimizer=True)

    def test_what_is_no_optimizer(self, url):
        self.wrap(url, model(), model(), "Sequential is no torch.optim.Optimizer")

    def test_the_optimizer_of_another_model(self, url):
        net, other = model(), model()
        self.wrap(
            url, torch.optim.SGD(other.parameters(), lr=0.1), net, "6 of the optimizer's parameters are not of the"
        )

    def test_a_group_of_another_model_that_is_added_later(self, url):
        net, other = model(), nn.Linear(2, 2)
        optimizer = leeway.wrap(torch.optim.SGD(net[0].parameters(), lr=0.1), net, url=url, rank="w2")
        optimizer.add_param_group({"params": net[3].parameters()})
        loss_of(net, next(batches())).backward()
        with optimizer.session as session:
            optimizer.step()
            clock = session.clock
            optimizer.add_param_group({"params": other.parameters()})
            with pytest.raises(ValueError, match="2 of the optimizer's parameters are not of the model"):
                optimizer.step()
            assert session.clock == clock

    def test_wrapped_twice(self, url):
        net = model()
        optimizer = leeway.wrap(torch.optim.SGD(net.parameters(), lr=0.1), net, url=url, rank="w0")
        with optimizer.session as session, pytest.raises(ValueError, match="wrapped already"):
            session.wrap(optimizer)

    def test_wrapped_anew_after_the_end_of_its_session(self, url):
        net = model()
        optimizer = leeway.wrap(torch.optim.SGD(net.parameters(), lr=0.1), net, url=url, rank="w0")
        optimizer.session.close()
        leeway.wrap(optimizer, net, url=url, rank="w0")
        loss_of(net, next(batches())).backward()
        with optimizer.session as session:
            before = session.clock
            optimizer.step()
            assert session.clock == before + 1

    def test_rates_of_several_groups(self, url):
        net = model()
        optimizer = torch.optim.SGD(
            [{"params": net[0].parameters(), "lr": 0.5}, {"params": net[3].parameters()}], lr=0.1
        )
        leeway.wrap(optimizer, net, url=url, rank="w1", server_optimizer=True, lr="script")
        loss_of(net, next(batches())).backward()
        with (
            optimizer.session,
            pytest.raises(ValueError, match="one rate for all that a part has, and in default this optimizer has 2"),
        ):
            optimizer.step()
