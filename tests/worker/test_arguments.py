"""What a loop may hand in, and what it is told otherwise: the argument, its value, what is allowed."""

import math
import warnings

import numpy as np
import pytest
import torch
from aiohttp import web

from leeway.protocol import limits
from leeway.protocol.fields import MAX_INTEGER
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.times import StepTimes
from leeway.transport.channel import Tensors
from leeway.worker import arguments
from leeway.worker.client import Client


class Index:
    def __index__(self):
        return 4


class Raises:
    """Asked for its number, it raises what no number raises."""

    def __index__(self):
        raise LookupError("index")

    def __float__(self):
        raise LookupError("float")

    def item(self):
        raise LookupError("item")


@pytest.mark.parametrize(
    "value", [4, np.int64(4), np.uint8(4), np.array(4), torch.tensor(4), torch.tensor(4, dtype=torch.int16), Index()]
)
def test_an_integer_in_any_clothes(value):
    number = arguments.samples(value)
    assert (type(number), number) == (int, 4)


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.True_,
        torch.tensor(True),
        4.0,
        np.float32(4),
        torch.tensor(4.0),
        torch.tensor([4, 4]),
        "4",
        None,
        [4],
        Raises(),
    ],
    ids=lambda one: repr(one).partition(" at ")[0],
)
def test_what_is_no_integer(value):
    with pytest.raises(ValueError, match=r"^samples is .*, it must be an integer from 1 to \d+; an iteration"):
        arguments.samples(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, r"samples is 0, it must be at least 1; an iteration without any is a skip\(\)"),
        (np.int64(-3), "samples is -3"),
        (2**53, "at most"),
    ],
)
def test_an_integer_out_of_range(value, words):
    with pytest.raises(ValueError, match=words):
        arguments.samples(value)
    assert arguments.samples(MAX_INTEGER) == MAX_INTEGER


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        np.float32(0.5),
        np.array(0.5),
        torch.tensor(0.5),
        torch.tensor([0.5]),
        torch.tensor(0.5, requires_grad=True),
    ],
)
def test_a_metric_in_any_clothes(value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers = arguments.metrics({"loss": value})
    assert numbers == {"loss": 0.5}
    assert type(numbers["loss"]) is float


def test_a_diverged_loss_is_news():
    assert math.isnan(arguments.metrics({"loss": torch.tensor(float("nan"))})["loss"])
    assert arguments.metrics({"loss": math.inf, "steps": 3, "long": 10**300}) == {
        "loss": math.inf,
        "steps": 3.0,
        "long": 1e300,
    }
    assert arguments.metrics(None) == {}


@pytest.mark.parametrize(
    "value",
    [True, np.False_, "0.5", b"1", None, 1j, [0.5], torch.zeros(2), 10**400, object(), Raises()],
    ids=lambda one: repr(one)[:20],
)
def test_what_is_no_metric(value):
    with pytest.raises(ValueError, match=r"^metrics\['loss'\] is .*, it must be one number"):
        arguments.metrics({"loss": value})


@pytest.mark.parametrize("name", ["", 3, None, "x" * 65, "é" * 33, "a\nb", "\ud800"], ids=repr)
def test_what_names_no_metric(name):
    with pytest.raises(ValueError, match=r"^metrics has the name .* printable text of 1 to 64 bytes"):
        arguments.metrics({name: 0.5})


def test_metrics_that_are_too_many_or_none_at_all():
    with pytest.raises(ValueError, match="metrics has 33 names, it may have 32"):
        arguments.metrics({str(number): 0.0 for number in range(limits.MAX_REPORTED_METRICS + 1)})
    with pytest.raises(ValueError, match=r"metrics is 0\.5, it must map names to numbers"):
        arguments.metrics(0.5)


@pytest.mark.parametrize("value", ["skip", "weights", None, 3, ["gradient"]])
def test_what_is_no_update(value):
    with pytest.raises(ValueError, match=r"^update is .*, it must be 'gradient', 'delta' or 'model'"):
        arguments.update_kind(value)
    assert arguments.update_kind("delta") is UpdateKind.DELTA
    assert arguments.update_kind("model") is UpdateKind.MODEL


@pytest.mark.parametrize("value", [0, -1, math.nan, 301, "20", None, True, Raises()])
def test_what_is_no_wait(value):
    with pytest.raises(ValueError, match=r"^wait_seconds is .*, it must be a number of seconds above 0 and"):
        arguments.seconds("wait_seconds", value, 300)


@pytest.mark.parametrize("value", [-1, math.inf, math.nan, "0.1", None, True, Raises()])
def test_what_is_no_rate(value):
    with pytest.raises(ValueError, match=r"^the learning rate is .*, it must be a number at least 0"):
        arguments.rate(value)


@pytest.mark.parametrize("value", [0, False, [], {}, b"w0", torch.tensor([1, 2]), Raises()])
def test_what_is_no_text(value):
    with pytest.raises(ValueError, match=r"^rank is .*, it must be text such as w0"):
        arguments.text("rank", value, "w0")


def test_text_that_is_empty_is_none():
    assert [arguments.text("rank", value, "w0") for value in (None, "", "w1")] == [None, None, "w1"]


def test_seconds():
    assert arguments.seconds("patience_seconds", 0, zero=True) == 0.0
    assert arguments.seconds("wait_seconds", np.float32(0.5), 300) == 0.5
    assert arguments.seconds("patience_seconds", math.inf) == math.inf


@pytest.mark.parametrize("value", ["", "a b", "a/b", "..", "x" * 65, 3, None])
def test_what_is_no_name(value):
    with pytest.raises(ValueError, match=r"^barrier .* must be 1 to 64 of the characters"):
        arguments.name("barrier", value)
    assert arguments.name("barrier", "eval-1") == "eval-1"


def test_a_long_value_is_shortened():
    with pytest.raises(ValueError, match=r"samples is 'x{70,80}\.\.\., it"):
        arguments.samples("x" * 1000)


WEIGHT = TensorSpec("weight", (2,), "float32", Kind.TRAINABLE)
LAYOUT = Layout.of([WEIGHT])
BODY = bytes(LAYOUT.nbytes)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, r"^tensors is None, it must be leeway.Tensors\(layout, buffers\); an iteration without any is a skip"),
        ([BODY], "^tensors is .*, it must be leeway.Tensors"),
        (BODY, "^tensors is .*, it must be leeway.Tensors"),
        (Tensors(None, [BODY]), "^the layout of tensors is None, it must be a leeway.Layout"),
        (Tensors([WEIGHT], [BODY]), "^the layout of tensors is "),
        (Tensors(LAYOUT, None), "^the buffers of tensors are None, they must be contiguous bytes"),
        (Tensors(LAYOUT, [1.0]), "^the buffers of tensors are "),
        (Tensors(LAYOUT, [np.zeros((4, 4), np.float32)[:, ::2]]), "^the buffers of tensors are "),
        (Tensors(LAYOUT, [BODY], "weight"), "^the values of tensors is 'weight', it must be a list of names"),
        (Tensors(LAYOUT, [BODY], (1,)), "^the values of tensors is "),
    ],
)
def test_tensors_that_are_none(value, words):
    with pytest.raises(ValueError, match=words):
        arguments.tensors(value)


@pytest.mark.parametrize("buffers", [[BODY], [BODY[:8], BODY[8:]], [memoryview(bytearray(BODY))]])
def test_tensors(buffers):
    tensors = Tensors(LAYOUT, buffers, ("weight",))
    assert arguments.tensors(tensors) is tensors


@pytest.mark.parametrize("value", [1.0, (0, 1.0), {"compute": 1.0}])
def test_times_that_are_none(value):
    with pytest.raises(ValueError, match=r"^times is .*, it must be the times of a step, or None"):
        arguments.times(value)
    assert arguments.times(None) is None
    assert arguments.times(StepTimes(3)) == StepTimes(3)


@pytest.mark.parametrize("value", [None, 5, "weight", ["weight"], [None]])
def test_specs_that_are_none(value):
    with pytest.raises(ValueError, match=r"^specs is .*, it must be a list of leeway.TensorSpec"):
        arguments.specs(value)
    assert arguments.specs(iter([WEIGHT])) == (WEIGHT,)


@pytest.mark.parametrize("value", [0, 5, "weight", {"weight": "w"}, {"weight": 5}, {"weight": (5,)}, ["weight"]])
def test_aliases_that_are_none(value):
    with pytest.raises(ValueError, match=r"^aliases"):
        arguments.aliases(value)
    assert arguments.aliases(None) == {}
    assert arguments.aliases({"weight": ["w"]}) == {"weight": ("w",)}


# What they are told at the calls themselves: nothing is begun with it.


@pytest.mark.parametrize("call", ["push", "pushpull"])
@pytest.mark.parametrize(
    "wrong",
    [
        (UpdateKind.GRADIENT, 1, None),
        (UpdateKind.GRADIENT, 1, [BODY]),
        (UpdateKind.SKIP, 0, None),
        (None, 1, Tensors(LAYOUT, [BODY])),
        ([], 1, Tensors(LAYOUT, [BODY])),
        (UpdateKind.GRADIENT, 1, Tensors(LAYOUT, [BODY[:1]])),
        (UpdateKind.GRADIENT, 1, Tensors(LAYOUT, [BODY]), None, 1.0),
        (UpdateKind.GRADIENT, 1, Tensors(LAYOUT, [BODY], (1,))),
    ],
    ids=lambda wrong: repr(wrong)[:40],
)
async def test_an_update_that_is_none_leaves_the_client_as_it_was(server, call, wrong):
    server.then(server.joined(), server.granted(), server.pushpulled(), web.json_response({"rank": "w0"}))
    async with Client(server.url, "w0") as client:
        await client.pull()
        for _ in range(2):
            with pytest.raises(ValueError, match=r"tensors|kind|times|buffers"):
                await getattr(client, call)(*wrong)
        assert not client.conversation.in_hand
        assert (await client.pushpull("gradient", 1, server.tensors()))[0].clock == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ((None, None), "^specs is None"),
        (([WEIGHT, WEIGHT], lambda layout: [BODY]), "'weight' is there twice"),
        (([WEIGHT], None), "^values is None, it must be a function"),
        (([WEIGHT], [BODY]), "^values is .*, it must be a function"),
    ],
)
async def test_an_offer_that_is_none(server, wrong, words):
    server.then(server.joined(), web.json_response({"rank": "w0"}))
    async with Client(server.url, "w0") as client:
        with pytest.raises(ValueError, match=words):
            await client.offer(*wrong)
        with pytest.raises(ValueError, match=r"^allocate is 5, it must be a function"):
            client.receive_into(5)


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ((None, "w0"), {}, "^the server's address is None; it must be text"),
        ((b"http://a", "w0"), {}, "^the server's address is b'http://a'; it must be text"),
        (("http://a", None), {}, "^rank None must be"),
        (("http://a", "w0"), {"groups": 5}, "^groups is 5, it must be a list of names"),
        (("http://a", "w0"), {"groups": ("a", 1)}, "^group 1 must be"),
        (("http://a", "w0"), {"groups": [["a"]]}, "^group .* must be"),
        (("http://a", "w0"), {"group": 5}, "^group 5 must be"),
        (("http://a", "w0"), {"channel": 5}, "^channel is 5, it must be a function"),
        (("http://a", "w0"), {"wait_seconds": None}, "^wait_seconds is None"),
        (("http://a", "w0"), {"max_body_bytes": "1MB"}, "^max_body_bytes is '1MB'"),
    ],
)
def test_a_client_that_cannot_be(given, options, words):
    with pytest.raises(ValueError, match=words):
        Client(*given, **options)
