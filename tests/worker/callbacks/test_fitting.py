"""What both callbacks do with a session, where no framework is needed for it."""

import inspect

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, WeightedRandomSampler

import leeway
from leeway.worker.callbacks.fitting import Fitted, Fitting
from tests.worker.callbacks.near import serving

DATA = torch.utils.data.TensorDataset(torch.zeros(8, 2))


@pytest.fixture
def session():
    """Of a worker that is one of two."""
    with (
        serving(workers=2, mode="async") as url,
        leeway.connect(url, "w1") as other,
        leeway.connect(url, "w0") as session,
    ):
        other.join()
        session.attach(torch.nn.Linear(2, 1))
        assert session.count == 2
        yield session


def keywords(function):
    parameters = inspect.signature(function).parameters.values()
    return [parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def test_the_options_are_those_of_wrap():
    assert keywords(Fitted) == keywords(leeway.TrainingSession.wrap) != []


@pytest.mark.parametrize("session", [None, "http://127.0.0.1:8080", leeway.connect], ids=["None", "text", "a function"])
def test_what_is_no_session_is_told(session):
    with pytest.raises(ValueError, match=r"^session is .*, it must be what leeway\.connect returned: LeewayCallback\("):
        Fitted(session)


def fitting(session):
    return Fitting(session, every=1, samples=None, server_optimizer=False, lr=None)


@pytest.mark.parametrize(
    ("loader", "name"),
    [
        (DataLoader(DATA), "SequentialSampler"),
        (DataLoader(DATA, shuffle=True), "RandomSampler"),
        (DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 2, False)), "RandomSampler"),
        (DataLoader(DATA, sampler=DistributedSampler(DATA, num_replicas=1, rank=0)), "DistributedSampler"),
    ],
)
def test_a_loader_that_gives_each_worker_everything_is_told_once(session, loader, name):
    fit = fitting(session)
    with pytest.warns(UserWarning, match=f"one of 2 workers, and each reads all the data: a {name} does not") as told:
        assert [fit.stepped([loader]) for _ in range(2)] == [False, False]
    assert len(told) == 1
    assert told[0].filename == __file__


def test_other_loaders_are_their_owners(session, recwarn):
    share = leeway.Sampler(DATA, session)
    weighted = WeightedRandomSampler([1.0] * 8, 8)
    fitting(session).stepped([DataLoader(DATA, sampler=share), DataLoader(DATA, sampler=weighted), [1, 2]])
    assert not recwarn.list


def test_a_worker_is_one_process(session):
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="among 4 processes of its own; a worker of Leeway is one"):
        fitting(session).begin(net, [optimizer], 4)


def test_there_is_an_optimizer(session):
    with pytest.raises(ValueError, match="there is no optimizer to wrap"):
        fitting(session).begin(torch.nn.Linear(2, 1), [], 1)
