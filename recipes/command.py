"""The command line of a miniature's recipe: it makes the checkpoint, then its card from the files that were saved."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from harness.catalog import ZOO
from harness.runs import disk
from recipes import stages


def run(
    name: str, description: str | None, make: Callable[[Path, Path, int], None], card: Callable[[Path, float], str]
) -> None:
    """Call ``make(folder, work, workers)``, then write its card, ``card(folder, seconds)``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=ZOO / name, help="the checkpoint's folder")
    parser.add_argument("--work", type=Path, default=Path("build") / name, help="where unfinished stages are stored")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of the training; another process draws the pictures"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that encode pictures between the stages")
    parser.add_argument("--steps", type=int, help="at most so many of each stage, to try the recipe")
    arguments = parser.parse_args()
    stages.limit(arguments.steps)
    for folder in (arguments.out, arguments.work):
        disk.check_folder(folder)
    torch.set_num_threads(arguments.threads)
    make(arguments.out, arguments.work, arguments.workers)
    (arguments.out / "card.md").write_text(card(arguments.out, stages.seconds(arguments.work)))
