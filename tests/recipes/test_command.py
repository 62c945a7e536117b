"""The command line that the miniatures' recipes share, on a model of one parameter."""

from collections.abc import Iterator
from pathlib import Path

import harness.models.torchvision_ops  # noqa: F401  isort: skip
import pytest
import torch

from recipes import command, stages


def test_a_recipe_makes_its_checkpoint_and_then_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages run in --work, the checkpoint and its card are in --out, and a second call reuses what is done."""
    module = torch.nn.Linear(1, 1, bias=False)
    ran: list[int] = []

    def losses(first: int) -> Iterator[tuple[torch.Tensor, float]]:
        for step in range(first, 10):
            ran.append(step)
            yield module(torch.ones(1, 1)).square().sum(), 0.0

    def make(folder: Path, work: Path, workers: int) -> None:
        stages.train("only", work, module, {"weight": 0.01}, 3, losses)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "workers").write_text(str(workers))

    def card(folder: Path, seconds: float) -> str:
        return f"{(folder / 'workers').read_text()} workers, {seconds:.0f} s"

    given = ["recipe", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--workers", "5"]
    monkeypatch.setattr("sys.argv", given)
    for _ in range(2):
        command.run("tiny", "Makes it.", make, card)
    assert (tmp_path / "out" / "card.md").read_text() == "5 workers, 0 s"
    assert ran == [0, 1, 2]
