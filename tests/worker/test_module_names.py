"""Names on the wire: wrappers are known by their types, at the top, inside, and around one another."""

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from leeway.worker.module_names import find, names

# torch imports deprecated parts of its own with its compiler and its distributed half.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

PLAIN_NAMES = ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]


def plain():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.fixture
def alone(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_plain_model_has_its_own_names():
    assert names(plain()) == {name: name for name in PLAIN_NAMES}


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, checkpoint_wrapper])
def test_a_wrapped_model_has_the_names_of_the_plain_one(wrap):
    inner = plain()
    model = wrap(inner)
    found = names(model)
    assert list(found) == PLAIN_NAMES
    state = inner.state_dict(keep_vars=True)
    assert all(find(model, path) is state[name] for name, path in found.items())


@pytest.mark.usefixtures("alone")
def test_distributed_data_parallel():
    model = nn.parallel.DistributedDataParallel(plain())
    assert list(names(model)) == PLAIN_NAMES
    assert list(names(torch.compile(model))) == PLAIN_NAMES


@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore")
def test_fully_sharded():
    from torch.distributed.fsdp import FullyShardedDataParallel

    inner = FullyShardedDataParallel(nn.Linear(3, 2), use_orig_params=True, device_id=torch.device("cpu"))
    model = FullyShardedDataParallel(
        nn.Sequential(inner, nn.Linear(2, 1)), use_orig_params=True, device_id=torch.device("cpu")
    )
    assert list(names(model)) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_wrappers_around_one_another_and_inside():
    inside = nn.Sequential(torch.compile(nn.Linear(3, 2)), nn.DataParallel(nn.BatchNorm1d(2)))
    assert list(names(nn.DataParallel(torch.compile(inside)))) == PLAIN_NAMES
    assert names(inside)["1.running_mean"] == "1.module.running_mean"


def test_a_submodule_of_ones_own_keeps_its_name():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self._orig_mod = nn.Linear(2, 2), nn.Linear(2, 2)

    own = ["module.weight", "module.bias", "_orig_mod.weight", "_orig_mod.bias"]
    assert list(names(Holder())) == own
    assert list(names(nn.DataParallel(Holder()))) == own


def test_a_subclass_of_a_wrapper_is_one():
    class Mine(nn.DataParallel):
        pass

    assert list(names(Mine(plain()))) == PLAIN_NAMES


def test_two_paths_with_one_name_are_refused():
    class Mine(nn.DataParallel):
        def __init__(self, model):
            super().__init__(model)
            self.weight = nn.Parameter(torch.zeros(1))

    with pytest.raises(ValueError, match=r"module\.weight and weight would both be 'weight'"):
        names(Mine(nn.Linear(2, 2)))


def test_tied_parameters_have_all_their_names():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    assert list(names(model)) == ["0.weight", "1.weight"]


def test_an_absent_bias_has_no_name():
    assert list(names(nn.Linear(2, 2, bias=False))) == ["weight"]


def test_buffers_that_are_not_saved_have_no_name():
    model = nn.Linear(2, 2)
    model.register_buffer("kept", torch.zeros(1))
    model.register_buffer("home", torch.zeros(1), persistent=False)
    model.register_buffer("absent", None)
    assert list(names(model)) == ["weight", "bias", "kept"]
