"""The one loop of every training: AdamW over named groups of parameters, resumed from a checkpoint.

What is trained, on which losses and how that is reported is the caller's: Algorithm 1 on one process or many
(:mod:`harness.training.loop`), a codec on given features (:mod:`harness.training.codec`), the stages that make the
bundled weights.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from harness.training import checkpoint


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters by name, with their peak learning rate and their weight decay."""

    name: str
    parameters: Mapping[str, Tensor]
    rate: float
    weight_decay: float = 0.0


class Step(NamedTuple):
    """A step that was taken: its number from 0, the factor of its peak rates, the gradient's norm before clipping."""

    number: int
    factor: float
    norm: Tensor


class Backend(Protocol):
    """How gradients are taken: on one process, or by accelerate on several."""

    def prepare(self, optimiser: Any) -> Any:
        """The optimiser, or a wrapper of it."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a micro-batch's loss."""
        ...

    def clip_grad_norm_(self, parameters: Any, max_norm: float) -> Any:
        """Scales gradients to a norm of at most ``max_norm``; returns the norm before."""
        ...


class OneProcess:
    """Gradients as torch takes them."""

    def prepare(self, optimiser: Any) -> Any:
        """The optimiser itself."""
        return optimiser

    def backward(self, loss: Tensor) -> None:
        """Torch's backward pass."""
        loss.backward()  # type: ignore[no-untyped-call]

    def clip_grad_norm_(self, parameters: Any, max_norm: float) -> Any:
        """Torch's own."""
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)


ONE_PROCESS = OneProcess()

Losses = Callable[[int], Iterator[Iterable[Tensor]]]
"""From a step's number, the losses of that step's micro-batches, then those of the next step's, and so on."""


def fit(
    groups: Sequence[Group],
    steps: int,
    losses: Losses,
    *,
    factor: Callable[[int], float],
    betas: tuple[float, float] = (0.9, 0.999),
    gradient_norm: float = 1.0,
    backend: Backend = ONE_PROCESS,
    state: checkpoint.State | None = None,
    save: Callable[[int, float, dict[str, Tensor]], None] | None = None,
    save_every: int = 1,
) -> Iterator[Step]:
    """Train the groups' parameters in place until ``steps`` are done or the losses end, yielding after each step.

    A step's learning rates are the groups' times ``factor`` of its number. A micro-batch's loss is computed when its
    turn comes, after the gradient of the one before it was taken. Training starts with the step after those of
    ``state``, whose moments are restored here and whose weights by the caller. ``save(done, seconds, moments)``, with
    the seconds of this call, is called every ``save_every`` steps and after the last, once the caller asks for the next
    step: one that raises for a step's losses keeps the checkpoint before.
    """
    named = {name: p for group in groups for name, p in group.parameters.items()}
    optimiser: Any = torch.optim.AdamW(
        [
            {"params": list(g.parameters.values()), "peak": g.rate, "lr": 0.0, "weight_decay": g.weight_decay}
            for g in groups
        ],
        betas=betas,
    )
    first = 0
    if state is not None:
        checkpoint.restore_moments(optimiser, named, state.tensors)
        first = state.steps
    stepper = backend.prepare(optimiser)
    begun = time.monotonic()
    for step, parts in zip(range(first, steps), losses(first), strict=False):
        of_peak = factor(step)
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * of_peak
        for loss in parts:
            backend.backward(loss)
        norm = backend.clip_grad_norm_(list(named.values()), gradient_norm)
        stepper.step()
        stepper.zero_grad()
        yield Step(step, of_peak, norm)
        if save is not None and ((step + 1) % save_every == 0 or step + 1 == steps):
            save(step + 1, time.monotonic() - begun, checkpoint.moments(optimiser, named))


def warm_up_and_cosine(step: int, steps: int, rising: int, *, full_at: int, floor: float = 0.0) -> float:
    """The factor of a learning rate: ``rising`` steps of a line that would be at 1 at step ``full_at``, then a cosine.

    Half a cosine, from 1 down to ``floor``. Steps are counted from 0, ``full_at`` from 1.
    """
    if step < rising:
        return (step + 1) / full_at
    falling = math.cos(math.pi * (step - rising) / max(1, steps - rising))
    return floor + (1 - floor) * 0.5 * (1 + falling)


def learning_rate_factor(step: int, steps: int, warm_up: float) -> float:
    """A linear rise over the share ``warm_up`` of the steps, then half a cosine to zero; in 0..1."""
    rising = round(warm_up * steps)
    return warm_up_and_cosine(step, steps, rising, full_at=rising + 1)
