"""The one loop of every training: its schedule, its steps against torch's own, and what a checkpoint restores."""

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.errors import CheckpointError
from harness.models import files
from harness.runs.disk import remove_unfinished
from harness.training import checkpoint
from harness.training.fit import Group, fit, learning_rate_factor, warm_up_and_cosine
from tests.forked import forked


def groups_of(module: nn.Module) -> list[Group]:
    """Weights decay, biases do not."""
    named = dict(module.named_parameters())
    return [
        Group(name="w", parameters={n: p for n, p in named.items() if p.ndim > 1}, rate=0.05, weight_decay=0.1),
        Group(name="b", parameters={n: p for n, p in named.items() if p.ndim == 1}, rate=0.01),
    ]


def model() -> nn.Module:
    """A seeded model."""
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def loss_of(module: nn.Module, step: int) -> Tensor:
    """A step's loss, which follows from its number."""
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    return module(x).square().mean()


def losses(module: nn.Module, first: int, last: int) -> Iterator[list[Tensor]]:
    """The losses of some steps, one micro-batch each."""
    return ([loss_of(module, step)] for step in range(first, last))


def trained(module: nn.Module, **how: Any) -> nn.Module:
    """Twelve steps under a cosine."""
    taken = fit(
        groups_of(module), 12, lambda first: losses(module, first, 12),
        factor=lambda step: learning_rate_factor(step, 12, 0.25), gradient_norm=0.5, **how,
    )  # fmt: skip
    assert [step.number for step in taken][-1] == 11
    return module


def test_its_steps_are_torchs() -> None:
    """AdamW with the same groups under torch's own scheduler, with the gradient clipped: the same weights."""
    ours, theirs = trained(model()), model()
    optimiser = torch.optim.AdamW(
        [
            {"params": list(g.parameters.values()), "lr": g.rate, "weight_decay": g.weight_decay}
            for g in groups_of(theirs)
        ]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_factor(step, 12, 0.25))
    for step in range(12):
        optimiser.zero_grad()
        loss_of(theirs, step).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimiser.step()
        schedule.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("stopped_at", [1, 5, 6, 11])
def test_a_stopped_training_ends_as_a_whole_one(tmp_path: Path, stopped_at: int) -> None:
    """From the last checkpoint on, in another process's objects: the same weights to the bit."""
    path = tmp_path / "state.safetensors"

    def keep(module: nn.Module) -> Any:
        def save(done: int, seconds: float, moments: dict[str, Tensor]) -> None:
            weights = {f"weight:{name}": p.detach().clone() for name, p in module.named_parameters()}
            checkpoint.write(path, checkpoint.State("this", "only", done, seconds, {}, {**weights, **moments}))

        return save

    first = model()
    taken = fit(
        groups_of(first), 12, lambda start: losses(first, start, 12),
        factor=lambda step: learning_rate_factor(step, 12, 0.25), gradient_norm=0.5, save=keep(first), save_every=3,
    )  # fmt: skip
    for step in taken:
        if step.number == stopped_at:
            break
    state = checkpoint.read(path)
    resumed = model()
    if state is not None:
        resumed.load_state_dict({n.removeprefix("weight:"): t for n, t in state.tensors.items() if "weight:" in n})
        assert state.steps == stopped_at // 3 * 3
    trained(resumed, state=state, save=keep(resumed), save_every=3)
    whole = trained(model())
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))
    last = checkpoint.read(path, tensors=False)
    assert last is not None
    assert (last.steps, last.tensors) == (12, {})


def test_losses_of_micro_batches_add_up() -> None:
    """The gradient of a step is the sum of its parts', each computed after the one before was taken."""
    whole, parted = model(), model()
    order: list[str] = []

    def parts(step: int) -> Iterator[Tensor]:
        for part in range(2):
            order.append(f"loss {step}.{part}")
            yield loss_of(parted, step) / 2

    def steady(_: float) -> float:
        return 1.0

    list(fit(groups_of(whole), 2, lambda first: losses(whole, first, 2), factor=steady))
    taken = fit(groups_of(parted), 2, lambda first: (parts(step) for step in range(first, 2)), factor=steady)
    for step in taken:
        order += [f"step {step.number}"]
    assert order == ["loss 0.0", "loss 0.1", "step 0", "loss 1.0", "loss 1.1", "step 1"]
    for a, b in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_loop_ends_with_its_losses() -> None:
    """Fewer losses than steps end it without an error."""
    module = model()
    taken = fit(groups_of(module), 9, lambda first: losses(module, first, 2), factor=lambda _: 1.0)
    assert [step.number for step in taken] == [0, 1]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    """The error says what to do."""
    (tmp_path / "state").write_bytes(b"no")
    with pytest.raises(
        CheckpointError, match=r"state: not a readable checkpoint of a training: .*delete it to start over"
    ):
        checkpoint.read(tmp_path / "state")


def state_of(steps: int, n: int) -> checkpoint.State:
    """A state with one tensor of ``n`` numbers."""
    return checkpoint.State("tiny", "joint", steps, 0.0, {}, {"weight": torch.full((n,), float(steps))})


def test_a_checkpoint_that_cannot_be_written_is_named_and_the_one_before_is_kept(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    path = tmp_path / "out" / checkpoint.FILE
    checkpoint.write(path, state_of(1, 10))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            checkpoint.write(path, state_of(2, 10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.filename == str(path)
    assert [file.name for file in path.parent.iterdir()] == [checkpoint.FILE]
    kept = checkpoint.read(path)
    assert kept is not None
    assert kept.steps == 1


def test_what_a_kill_leaves_of_a_checkpoint_can_be_found(tmp_path: Path) -> None:
    """The one before is whole, and what was being written is in a folder that is known as unfinished."""
    path = tmp_path / checkpoint.FILE
    checkpoint.write(path, state_of(1, 10))

    def killed() -> None:
        with files.written(path) as unfinished:
            # safetensors writes under such a name before it gives the file its own.
            (unfinished.parent / ".tmpAbCdEf").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    process = forked(killed)
    process.join()
    assert len(list(tmp_path.iterdir())) == 2
    remove_unfinished(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [checkpoint.FILE]
    kept = checkpoint.read(path)
    assert kept is not None
    assert kept.steps == 1


@given(steps=st.integers(1, 400), warm_up=st.floats(0, 0.9), floor=st.sampled_from([0.0, 0.02]))
def test_the_learning_rate_rises_and_falls(steps: int, warm_up: float, floor: float) -> None:
    """It peaks at 1 after the warm-up, falls to its floor, and is never above or below."""
    rising = round(warm_up * steps)
    factors = [warm_up_and_cosine(step, steps, rising, full_at=rising + 1, floor=floor) for step in range(steps + 1)]
    assert factors[:-1] == sorted(factors[:rising]) + sorted(factors[rising:-1], reverse=True)
    assert factors[min(rising, steps)] == pytest.approx(1 if rising < steps else factors[-1])
    assert factors[-1] == pytest.approx(floor) or rising == steps
    if not floor:
        assert factors[:-1] == [learning_rate_factor(step, steps, warm_up) for step in range(steps)]
