"""A stage of a recipe: :func:`harness.training.fit.fit` on a module, resumed from a file of the stage's own."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.cli.display import Display, terminal
from harness.errors import CheckpointError
from harness.training import checkpoint
from harness.training.fit import Group, fit, warm_up_and_cosine

_SAVE_EVERY_STEPS = 100
_WARM_UP = 60
_FLOOR = 0.02
_BETAS = (0.9, 0.98)
_WEIGHT_DECAY = 0.05
_CLIP_NORM = 1.0
_REPORT_EVERY_STEPS = 25

_most_steps: int | None = None


def limit(steps: int | None) -> None:
    """Train each later stage of this process for at most ``steps`` steps: enough to try a recipe, not to learn."""
    global _most_steps
    _most_steps = steps


def few(books: int) -> int:
    """The books to learn from: one where :func:`limit` leaves few steps."""
    return books if _most_steps is None else 1


def train(
    stage: str,
    folder: Path,
    module: nn.Module,
    rates: Mapping[str, float],
    steps: int,
    losses: Callable[[int], Iterator[tuple[Tensor, float]]],
) -> list[float]:
    """Train ``module`` in place for ``steps`` steps, leave it in evaluation mode, and return the losses of steps run.

    ``rates`` gives the peak learning rate by the beginning of a parameter's name; a parameter that no entry names is
    left alone. ``losses(first)`` yields the loss and a score of each step, beginning with step ``first``. :func:`limit`
    may allow fewer steps.
    ``folder/<stage>.safetensors`` holds the newest state; a stage that was finished is read back, not run. Raises
    CheckpointError where that file is of another stage: other steps, rates or sizes.
    """
    steps = min(steps, _most_steps or steps)
    path = folder / f"{stage}.safetensors"
    named = {
        name: rate for name, _ in module.named_parameters() for prefix, rate in rates.items() if name.startswith(prefix)
    }
    parameters = {name: p for name, p in module.named_parameters() if name in named}
    for name, p in module.named_parameters():
        p.requires_grad_(name in named)
    groups = [
        Group(name=name, parameters={name: p}, rate=named[name], weight_decay=_WEIGHT_DECAY if p.ndim > 1 else 0.0)
        for name, p in parameters.items()
    ]
    identity = _identity(stage, steps, groups)
    state = checkpoint.read(path)
    if state is not None:
        if state.identity != identity:
            raise CheckpointError(
                f"{path}: is of other steps, rates or sizes than the stage has; delete it to begin again"
            )
        weights = {key.removeprefix("weight:"): t for key, t in state.tensors.items() if key.startswith("weight:")}
        module.load_state_dict(weights)

    before_s = 0.0 if state is None else state.seconds

    def save(done: int, seconds: float, moments: dict[str, Tensor]) -> None:
        # Tied weights are written twice: two names of one tensor are refused by the format.
        weights = {f"weight:{name}": tensor.contiguous().clone() for name, tensor in module.state_dict().items()}
        checkpoint.write(path, checkpoint.State(identity, stage, done, before_s + seconds, {}, {**weights, **moments}))

    shown: list[tuple[float, float]] = []
    run: list[float] = []

    def of_steps(first: int) -> Iterator[list[Tensor]]:
        for loss, score in losses(first):
            shown.append((float(loss.detach()), score))
            yield [loss]

    first = 0 if state is None else state.steps
    if first < steps:
        module.train()
        taken = fit(
            groups,
            steps,
            of_steps,
            factor=lambda step: warm_up_and_cosine(step, steps, _WARM_UP, full_at=_WARM_UP, floor=_FLOOR),
            betas=_BETAS,
            gradient_norm=_CLIP_NORM,
            state=state,
            save=save,
            save_every=_SAVE_EVERY_STEPS,
        )
        # On processors torch's fused attention takes twice as long backwards as the plain products.
        with Display(terminal()) as display, sdpa_kernel(SDPBackend.MATH):
            display.phase(stage, steps, first)
            since = time.monotonic()
            for step in taken:
                run.append(shown[-1][0])
                if len(shown) == _REPORT_EVERY_STEPS:
                    loss, score = (sum(column) / len(shown) for column in zip(*shown, strict=True))
                    seconds = (time.monotonic() - since) / len(shown)
                    display.line(
                        f"{stage}: step {step.number + 1}/{steps}  loss {loss:.3f}  score {score:.3f}  "
                        f"{seconds:.2f} s a step"
                    )
                    shown.clear()
                    since = time.monotonic()
                display.advance()
    module.eval()
    module.requires_grad_(False)
    return run


def _identity(stage: str, steps: int, groups: list[Group]) -> str:
    sizes = [(g.name, f"{g.rate:.3g}", tuple(p.shape)) for g in groups for p in g.parameters.values()]
    return hashlib.sha256(json.dumps([stage, steps, sizes]).encode()).hexdigest()[:16]


def seconds(folder: Path) -> float:
    """The time that the stages stored in ``folder`` have been trained for, over all the runs that resumed them."""
    states = [checkpoint.read(path, tensors=False) for path in sorted(folder.glob("*.safetensors"))]
    return sum(state.seconds for state in states if state is not None)
