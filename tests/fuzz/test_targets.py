"""Bad bytes, the short form: each target for a few seconds, always the same inputs. `make fuzz` is the long one."""

import pytest

from tests.fuzz import registry
from tests.fuzz.finding import Started
from tests.fuzz.target import Changed, same

# So many that each target takes about two seconds, its imports included.
INPUTS = 60_000
SEED = 7


@pytest.mark.parametrize("name", registry.SHARES)
def test_whatever_comes_is_accepted_or_refused_as_documented(name, tmp_path):
    pytest.importorskip(
        "atheris", reason="atheris is not installed: its wheels are for Linux alone", exc_type=ImportError
    )
    inputs = registry.shares(INPUTS, list(registry.SHARES))[name]
    ran = Started(name, inputs, SEED, tmp_path).wait(120)
    assert ran.found is None, f"{ran.said}\n{ran.found.hex()}"
    assert ran.inputs == inputs
    assert 0 < ran.accepted < inputs
    assert ran.covered > 50, "nothing of ours was seen: is it imported before it is instrumented?"


@pytest.mark.parametrize("name", registry.SHARES)
def test_what_it_begins_with_is_good_for_something(name, tmp_path):
    target = registry.target(name, tmp_path)
    taken = [target.take(seed) for seed in target.seeds()]
    assert taken.count(True) >= 2


def test_nan_is_the_same_as_nan():
    same({"loss": float("nan")}, {"loss": float("nan")}, "")
    with pytest.raises(Changed, match=r"the loss: 1\.0 became 2\.0"):
        same(1.0, 2.0, "the loss")
