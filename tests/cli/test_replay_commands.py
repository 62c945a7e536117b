"""The commands on links and replays, from a recorder's file to a chain, and what they say when they cannot."""

import sys
from pathlib import Path

import numpy as np
import pytest

from harness.channel.markov import Chain
from harness.cli import main


def _harness(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_a_link_is_imported_shown_and_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a CSV to a recording to a chain of the same mean rate."""
    rng = np.random.default_rng(0)
    rates = rng.choice([100, 2000], 400, p=[0.3, 0.7])
    lines = [f"{at},{rate}" for at, rate in enumerate(rates)]
    (tmp_path / "link.csv").write_text("\n".join(["t,up_kbps", *lines]))
    recording, chain = tmp_path / "link.parquet", tmp_path / "link.json"
    options = ["--time", "t", "--rate", "up_kbps", "--hold", "5 s"]
    assert _harness(monkeypatch, "trace", "import", tmp_path / "link.csv", recording, *options) == 0
    assert _harness(monkeypatch, "trace", "fit", recording, "--out", chain, "--states", 2, "--step", "1 s") == 0
    assert Chain.load(chain).mean_bps() == pytest.approx(1000 * rates.mean(), rel=1e-6)
    assert "2 states from 400 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trace", "import", ".", "out.parquet"], "is a folder"),
        (["trace", "show", "none.parquet"], "does not exist; write it with 'harness trace import"),
        (["sweep", "none", "scenario.yaml"], "scenario.yaml: cannot be read"),
        (["advise", "none", "--rate", "1 MB/s", "--deadline", "1 s"], "no such folder"),
        (["crossover", "none", "a", "b"], "no such folder"),
        (["max-users", "none", "a", "--rate", "1 MB/s", "--limit", "1 s"], "no such folder"),
        (["max-users", "none", "a", "--rate", "1 MB/s", "--limit", "1 s", "--per-user", "3"], "'3' is not a number"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_two(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    """No traceback; the sentence names what is wrong."""
    monkeypatch.chdir(tmp_path)
    assert _harness(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert err.count("\n") == 1
