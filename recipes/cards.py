"""What all cards of the zoo state: how a checkpoint was made, and what its stored files score."""

import tempfile
from pathlib import Path

from harness.data import glimpseqa, streetsqa
from harness.models.llava import Llava
from harness.profiling.machine import this_machine
from harness.training.card import origin
from harness.training.result import came_from
from recipes.scores import table


def parameters_m(backbone: Llava) -> float:
    """The millions of parameters of a backbone."""
    return float(sum(p.numel() for p in backbone.model.parameters()) / 1e6)


def made(seed: int, seconds: float) -> str:
    """One sentence on seed, code, time and machine."""
    return f"{origin(came_from(seed, seconds, 1, this_machine()))}."


def scored(backbone: Llava) -> str:
    """What a backbone scores on the test splits."""
    with tempfile.TemporaryDirectory() as cache:
        benchmarks = {
            "StreetsQA": streetsqa.load("StreetsQA", cache=Path(cache)),
            "GlimpseQA": glimpseqa.load("GlimpseQA", cache=Path(cache)),
        }
        found = table(backbone, benchmarks)
    chance = 100 * (3 / 4 * 1 / 4 + 1 / 4 * 1 / 2)
    return f"""Scores on the test splits, by `python -m recipes.scores {backbone.name}` on the stored half-precision
weights. Answering at random scores {chance:.2f} % on StreetsQA and 50 % of the answers on GlimpseQA.

{found}"""
