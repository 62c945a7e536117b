"""``harness train`` as a user meets it: what it prints, and with which status."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Run = Callable[..., tuple[int, str, str]]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    harness: Run, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    """Data, backbone, how much is trained, the budget, the recipe, and T, lambda and rates of each stage."""
    status, out, _ = harness("train", write_config(), "--dry-run", "--set", "lora.rank=2", "--set", "prefit.lambda=0.2")
    assert status == 0
    assert "mix.json" in out
    assert "7 to train on, 2 held out" in out
    assert "budget: 6 steps of 2 pictures on cached features, then 6 of 4 examples, 2 at once on each of 1 proc" in out
    assert "12 and 24 samples" in out
    assert "recipe: ours" in out
    rows = [line.split()[:5] for line in out.splitlines() if line.startswith(("prefit", "joint"))]
    assert [row[:4] for row in rows if row[0] == "prefit"] == [["prefit", str(s), "10", "0.2"] for s in (0, 2, 3, 4, 5)]
    joint = [row for row in rows if row[0] == "joint"]
    assert [row[1] for row in joint] == ["0", "2", "3", "4", "5"]
    assert [row[2] for row in joint] == ["10", "0.464", "0.1", "0", "0"]
    assert {row[3] for row in joint} == {"0.1"}
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_dry_run_of_a_stage_says_what_is_left_out(harness: Run, write_config: Callable[..., Path]) -> None:
    """The codec alone adapts nothing; merging alone has no codec."""
    status, out, _ = harness("train", write_config(), "--stage", "codec", "--dry-run")
    assert status == 0
    assert "stage: codec only" in out
    assert "0.0 M of LoRA and projector" in out
    status, out, _ = harness("train", write_config(), "--stage", "merging", "--set", "scheme=qformer", "--dry-run")
    assert status == 0
    assert "stage: merging only" in out
    assert "of the reducer of qformer" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["lambda=-1"], "harness: --set lambda=-1: -1 is not right: input should be greater than 0"),
        (["clusters=[17]"], "harness: clusters: 17 is more than the 16 features of a patch of mini-onevision"),
        (["held_out=8"], "harness: held_out: 8 of the 8 pictures of the examples are to be held out; that leaves none"),
        (["data.images=nowhere"], "its image some/0.png is not in nowhere"),
        (["out=mix.json", "weights=nowhere"], "harness: --set out=mix.json: is a file; a folder is expected"),
        (["weights=nowhere"], "harness: mini-onevision: nowhere is neither a folder"),
        pytest.param(
            ["precision=fp16"],
            "harness: precision: fp16 needs an accelerator, and this machine has none",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="an accelerator has half precision"),
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    harness: Run, write_config: Callable[..., Path], tmp_path: Path, settings: list[str], sentence: str
) -> None:
    """Nothing is half-written."""
    named = [argument for setting in settings for argument in ("--set", setting)]
    status, _, err = harness("train", write_config(), *named)
    assert status == 2
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
