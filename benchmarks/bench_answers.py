"""The time of answers when points and questions share common work, beside each by itself; the rows are compared.

    python -m benchmarks.bench_answers [SCENARIO ...] [--questions 24]

*By itself*: every point encodes every picture, and every prompt is read alone, as a timed request is. *Sharing*, as
``harness run`` does: a picture is encoded once for all points that share a tower's state, and the questions about it of
all points that share a language model are read together (:class:`harness.models.engine.TransformersEngine`). Seconds of
the processor, the least of two rounds in turns. The goal is a ratio of 2 for the ablations together. Also printed: how
many prompts were read again because a token was in doubt, and by how much of the largest logit reading together moves
one.
"""

import argparse
import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from harness import loaded, measure
from harness.models import engine
from harness.models.contract import Sharing, Untimed
from harness.models.engine import TransformersEngine
from harness.scenario.load import load
from harness.stock import sample_rows, take_stock

SCENARIOS = Path(__file__).parents[1] / "scenarios"
GOAL = 2.0


def main() -> None:
    """Print a line for each scenario, and the ratio over all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ablations = [SCENARIOS / "ablation_entropy.yaml", SCENARIOS / "ablation_merging.yaml"]
    parser.add_argument("scenario", type=Path, nargs="*", default=ablations)
    parser.add_argument("--questions", type=int, default=24)
    given = parser.parse_args()
    all_s = {Untimed: 0.0, Sharing: 0.0}
    for file in given.scenario:
        stock = take_stock(load(file, [f"samples={given.questions}"]))
        plan = loaded.plan_of(stock, loaded.prepare(stock).halves, list(sample_rows(stock)))
        outcomes(plan, Sharing)
        taken: dict[type[Untimed], list[float]] = {Untimed: [], Sharing: []}
        rows: dict[type[Untimed], list[Any]] = {}
        watched = _Watched()
        with watched.on():
            for turn in range(2):
                for clock in (Untimed, Sharing)[:: 1 - 2 * turn]:
                    begun = time.process_time()
                    rows[clock] = outcomes(plan, clock)
                    taken[clock].append(time.process_time() - begun)
        alone_s, shared_s = (min(taken[clock]) for clock in (Untimed, Sharing))
        all_s = {Untimed: all_s[Untimed] + alone_s, Sharing: all_s[Sharing] + shared_s}
        equal = "equal" if rows[Untimed] == rows[Sharing] else "NOT EQUAL"
        print(
            f"{file.stem}: by itself {alone_s:.2f} s, sharing {shared_s:.2f} s, x{alone_s / shared_s:.2f}; "
            f"{len(rows[Sharing])} rows {equal}; {watched.again} of {watched.read} prompts read again; "
            f"rounding {rounding(plan):.1e} of the largest logit"
        )
    print(f"all together: x{all_s[Untimed] / all_s[Sharing]:.2f} (goal: x{GOAL:g})")


def outcomes(plan: measure.Plan, clock: type[Untimed]) -> list[Any]:
    """The outcome rows of a plan on clocks of a kind, picture after picture as in a run."""
    parts = [{" ".join(key): (key, places) for key in plan.halves} for places in plan.pictures]
    with mock.patch.object(measure, "Sharing", clock):
        return [row for part in parts for row in measure._outcomes(plan, part, run="bench")]


def rounding(plan: measure.Plan) -> float:
    """By how much of the largest logit the first tokens' logits differ when prompts are read together."""
    worst = 0.0
    together, decided = TransformersEngine._together, engine._decided

    def beside(self: TransformersEngine, groups: Any) -> Any:
        nonlocal worst
        seen: list[torch.Tensor] = []

        def caught(logits_BL: torch.Tensor) -> Any:
            seen.append(logits_BL)
            return decided(logits_BL)

        with mock.patch.object(engine, "_decided", caught):
            found = together(self, groups)
        for prompt_TH, logits_L in zip(itertools.chain(*groups), seen[0], strict=True):
            alone_L = self.language.lm_head(self.language.model(inputs_embeds=prompt_TH[None])[0][0, -1])
            worst = max(worst, float((alone_L - logits_L).abs().max() / alone_L.abs().max()))
        return found

    with mock.patch.object(TransformersEngine, "_together", beside):
        outcomes(plan, Sharing)
    return worst


class _Watched:
    """How many prompts are read together, and how many of them again."""

    def __init__(self) -> None:
        self.read = self.again = 0
        self._together = TransformersEngine._together

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Counts while the body runs."""

        def together(of: TransformersEngine, groups: Any) -> Any:
            found = self._together(of, groups)
            self.read += len(found)
            self.again += found.count(None)
            return found

        with mock.patch.object(TransformersEngine, "_together", together):
            yield


if __name__ == "__main__":
    main()
