"""What the script moves, found through torch and behind its back."""

import pytest
import torch

from leeway.worker.modules.movement import EVERY_STEPS, FIRST_STEPS, Movement, changed, same_bytes


def begun(steps=0, **tensors):
    movement = Movement()
    movement.begin(tensors)
    for _ in range(steps):
        movement.look(tensors)
    return movement


def through_torch(tensor):
    with torch.no_grad():
        tensor.add_(1)


def behind_its_back(tensor):
    tensor.data.add_(1)


def through_numpy(tensor):
    tensor.detach().numpy()[0] = 5


MOVES = [through_torch, behind_its_back, through_numpy]


@pytest.mark.parametrize("move", MOVES)
def test_in_the_first_steps_every_move_is_found(move):
    a, b = torch.zeros(3), torch.zeros(3)
    movement = begun(FIRST_STEPS - 1, a=a, b=b)
    move(b)
    movement.look({"a": a, "b": b})
    assert movement.moved == {"b"}


@pytest.mark.parametrize("move", MOVES)
def test_later_within_a_hundred(move):
    tensor = torch.zeros(3)
    movement = begun(FIRST_STEPS, a=tensor)
    move(tensor)
    steps = 0
    while not movement.moved:
        movement.look({"a": tensor})
        steps += 1
    assert steps == (1 if move is through_torch else EVERY_STEPS - FIRST_STEPS + 1)


def test_another_memory_with_the_same_bytes_is_no_move():
    tensor = torch.nn.Parameter(torch.full((3,), torch.nan), requires_grad=False)
    movement = begun(FIRST_STEPS, a=tensor)
    tensor.data = tensor.data.clone()
    movement.look({"a": tensor})
    tensor.copy_(tensor.clone())
    movement.look({"a": tensor})
    assert movement.moved == set()
    tensor.data = torch.zeros(3)
    movement.look({"a": tensor})
    assert movement.moved == {"a"}


def test_a_trained_one_is_no_longer_looked_at():
    tensor = torch.zeros(3)
    movement = begun(a=tensor)
    movement.look({})
    through_torch(tensor)
    movement.look({"a": tensor})
    assert movement.moved == set()


def test_tensors_of_inference_mode():
    with torch.inference_mode():
        tensor = torch.zeros(3)
        movement = begun(FIRST_STEPS, a=tensor)
        tensor = tensor + 1
    movement.look({"a": tensor})
    assert movement.moved == {"a"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.bool])
def test_bytes_are_compared(dtype):
    tensor = torch.ones(2, 3).to(dtype)
    assert same_bytes(tensor.t(), tensor.clone().t().contiguous())
    assert not same_bytes(tensor, torch.zeros_like(tensor))
    assert changed({"a": tensor, "b": tensor}, {"a": torch.zeros_like(tensor), "b": tensor}, "ab") == ["a"]
    if dtype.is_floating_point:
        assert not same_bytes(tensor * 0, tensor * -0.0)
        assert same_bytes(torch.full_like(tensor, torch.nan), torch.full_like(tensor, torch.nan))


def test_a_view_with_its_sign_in_a_bit():
    tensor = torch.tensor([1.0 + 2.0j, 3.0 - 4.0j]).conj().imag
    assert tensor.is_neg()
    assert same_bytes(tensor, tensor.resolve_neg())
    assert not same_bytes(tensor, -tensor.resolve_neg())
    movement = begun(a=tensor)
    movement.look({"a": tensor})
    assert movement.moved == set()
    tensor.mul_(2)
    movement.look({"a": tensor})
    assert movement.moved == {"a"}


@pytest.mark.parametrize("move", MOVES)
def test_a_look_that_was_interrupted_hides_no_movement(monkeypatch, move):
    def interrupt(*tensors):
        raise KeyboardInterrupt

    tensor = torch.zeros(3)
    movement = begun(FIRST_STEPS - 1, a=tensor)
    move(tensor)
    with monkeypatch.context() as patched:
        patched.setattr("leeway.worker.modules.movement.same_bytes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            movement.look({"a": tensor})
    movement.look({"a": tensor})
    assert movement.moved == {"a"}
