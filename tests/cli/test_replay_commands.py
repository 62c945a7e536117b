"""The commands on links and replays, from a recorder's file to a chain, and what they say when they cannot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.channel.markov import Chain

Run = Callable[..., tuple[int, str, str]]


def test_a_link_is_imported_shown_and_fitted(harness: Run, tmp_path: Path) -> None:
    """From a CSV to a recording to a chain of the same mean rate."""
    rng = np.random.default_rng(0)
    rates = rng.choice([100, 2000], 400, p=[0.3, 0.7])
    lines = [f"{at},{rate}" for at, rate in enumerate(rates)]
    (tmp_path / "link.csv").write_text("\n".join(["t_s,up_kbps", *lines]))
    recording, chain = tmp_path / "link.parquet", tmp_path / "link.json"
    options = ["--time", "t_s", "--rate", "up_kbps", "--hold", "5 s"]
    assert harness("trace", "import", tmp_path / "link.csv", recording, *options)[0] == 0
    status, out, _ = harness("trace", "fit", recording, "--out", chain, "--states", 2, "--step", "1 s")
    assert status == 0
    assert Chain.load(chain).mean_bps() == pytest.approx(1000 * rates.mean(), rel=1e-6)
    assert "2 states from 400 s" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trace", "import", ".", "out.parquet"], "is a folder"),
        (["trace", "show", "none.parquet"], "does not exist; write it with 'harness trace import"),
        (["sweep", "none", "scenario.yaml"], "scenario.yaml: cannot be read"),
        (["advise", "none", "--rate", "1 MB/s", "--deadline", "1 s"], "no such folder"),
        (["crossover", "none", "a", "b"], "no such folder"),
        (["max-users", "none", "a", "--rate", "1 MB/s", "--limit", "1 s"], "no such folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_two(harness: Run, arguments: list[str], said: str) -> None:
    """No traceback; the sentence names what is wrong."""
    status, _, err = harness(*arguments)
    assert status == 2
    assert said in err
    assert "Traceback" not in err
    assert err.count("\n") == 1
