"""One training stage: AdamW under a cosine, with a progress bar, that takes up where it was stopped."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_SAVE_EVERY_STEPS = 100
_WARM_UP = 60
_BETAS = (0.9, 0.98)
_WEIGHT_DECAY = 0.05
_CLIP_NORM = 1.0
_MOMENTS = ("exp_avg", "exp_avg_sq")
_REPORT_EVERY_STEPS = 25


def cosine(step: int, steps: int, warm_up: int) -> float:
    """The learning rate's factor: a linear rise, then half a cosine down to 2 %."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


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
    left alone. ``losses(first)`` yields the loss and a score of each step, beginning with step ``first``.
    ``folder/<stage>.safetensors`` holds the newest state; a stage that was finished is read back, not run.
    """
    path = folder / f"{stage}.safetensors"
    named = {
        name: rate for name, _ in module.named_parameters() for prefix, rate in rates.items() if name.startswith(prefix)
    }
    parameters = {name: p for name, p in module.named_parameters() if name in named}
    for name, p in module.named_parameters():
        p.requires_grad_(name in named)
    optimiser = torch.optim.AdamW(
        [
            {"params": [p], "lr": 0.0, "peak": named[n], "weight_decay": _WEIGHT_DECAY if p.ndim > 1 else 0.0}
            for n, p in parameters.items()
        ],
        betas=_BETAS,
    )
    run: list[float] = []
    first, spent_s = _resume(path, module, parameters, optimiser) if path.exists() else (0, 0.0)
    begun = time.monotonic()
    if first < steps:
        module.train()
        batches = losses(first)
        with _progress() as progress:
            task = progress.add_task(stage, total=steps, completed=first, note="")
            shown, since = [], time.monotonic()
            for step in range(first, steps):
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * cosine(step, steps, _WARM_UP)
                loss, score = next(batches)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters.values(), _CLIP_NORM)
                optimiser.step()
                optimiser.zero_grad()
                run.append(float(loss.detach()))
                shown.append((run[-1], score))
                if len(shown) == _REPORT_EVERY_STEPS:
                    mean_loss, mean_score = (sum(column) / len(shown) for column in zip(*shown, strict=True))
                    seconds = (time.monotonic() - since) / len(shown)
                    note = f"loss {mean_loss:.3f}  score {mean_score:.3f}  {seconds:.2f} s a step"
                    progress.update(task, note=note)
                    if not progress.console.is_terminal:
                        progress.console.print(f"{stage}: step {step + 1}/{steps}  {note}")
                    shown, since = [], time.monotonic()
                progress.update(task, completed=step + 1)
                if (step + 1) % _SAVE_EVERY_STEPS == 0 or step + 1 == steps:
                    _save(path, module, parameters, optimiser, step + 1, spent_s + time.monotonic() - begun)
    module.eval()
    module.requires_grad_(False)
    return run


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"))


def _save(
    path: Path,
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    done: int,
    spent_s: float,
) -> None:
    state = {f"weight:{name}": tensor.contiguous().clone() for name, tensor in module.state_dict().items()}
    for name, p in parameters.items():
        state |= {f"{m}:{name}": optimiser.state[p][m] for m in _MOMENTS if p in optimiser.state}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    save_file(state, unfinished, metadata={"steps": str(done), "seconds": f"{spent_s:.0f}"})
    unfinished.replace(path)


def _resume(
    path: Path, module: nn.Module, parameters: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> tuple[int, float]:
    """The steps done and the seconds that they took, with the module and the optimiser as they were then."""
    with safe_open(path, "pt") as file:
        done, spent_s = int(file.metadata()["steps"]), float(file.metadata()["seconds"])
    state = load_file(path)
    module.load_state_dict({name.removeprefix("weight:"): t for name, t in state.items() if name.startswith("weight:")})
    for name, p in parameters.items():
        if f"{_MOMENTS[0]}:{name}" in state:
            moments = {m: state[f"{m}:{name}"] for m in _MOMENTS}
            optimiser.state[p] = {"step": torch.tensor(float(done)), **moments}
    return done, spent_s


def seconds(folder: Path) -> float:
    """The time that the stages kept in ``folder`` have been trained for, over all the runs that took them up again."""
    total = 0.0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            total += float(file.metadata()["seconds"])
    return total
