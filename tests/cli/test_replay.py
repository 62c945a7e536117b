"""The commands on links and replays, from a recorder's file to a chain, and their error messages."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.analysis import Analysis
from harness.channel.markov import Chain
from harness.records import RequestRow, schema
from tests.made_up_run import make

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


def test_a_chain_is_not_fitted_to_packets(harness: Run, tmp_path: Path) -> None:
    """The command that is advised makes a recording of rates, to which one is fitted."""
    (tmp_path / "a.up").write_text("\n".join(map(str, range(0, 4000, 7))))
    assert harness("trace", "import", "a.up", "a.parquet")[0] == 0
    status, _, err = harness("trace", "fit", "a.parquet", "--out", "a.json")
    assert (status, err.count("\n")) == (2, 1)
    assert "a.parquet (a.up): holds packets, and a chain is fitted to rates" in err
    advised = err.partition("'harness ")[2].partition("'")[0].replace("FILE", "a.up").replace("OUT", "rates").split()
    assert harness(*advised)[0] == 0
    assert harness("trace", "fit", "rates.parquet", "--out", "a.json", "--states", 2, "--step", "100 ms")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["join", "file", "file"], "file: is a file, and a run's folder is expected"),
        (["join", "none", "none"], "none: no such folder"),
        (["compare", "file", "file"], "file: is a file; a run or a folder of runs is expected"),
        (["compare", ".", "none"], "none: there is no such folder; a run or a folder of runs is expected"),
        (["claims", "file"], "file: is a file; a run or a folder of runs is expected"),
        (["report", "none"], "none: there is no such folder; a run or a folder of runs is expected"),
        (["check", "none.yaml", "--results", "file"], "file: is a file; the folder of the runs is expected"),
        (["trace", "import", ".", "out.parquet"], "is a folder"),
        (["trace", "show", "none.parquet"], "does not exist; 'harness trace import FILE none.parquet'"),
        (["sweep", "none", "scenario.yaml"], "scenario.yaml: cannot be read"),
        (["advise", "none", "--rate", "1 MB/s", "--deadline", "1 s"], "no such folder"),
        (["crossover", "none", "a", "b"], "no such folder"),
        (["max-users", "none", "a", "--rate", "1 MB/s", "--limit", "1 s"], "no such folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_two(
    harness: Run, tmp_path: Path, arguments: list[str], said: str
) -> None:
    """No traceback; the sentence names what is wrong."""
    (tmp_path / "file").write_text("")
    status, _, err = harness(*arguments)
    assert status == 2
    assert said in err
    assert "Traceback" not in err
    assert err.count("\n") == 1


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run in which no scheme reaches the target, for it is beyond the reference."""
    selection = {"reference": "server_only", "target": 1.3, "margin": 0.0, "confidence": 0.95, "resamples": 100}
    return make(tmp_path_factory.mktemp("runs") / "none", selection=selection).folder


@pytest.mark.slow
def test_commands_on_one_run(harness: Run, made_up: Analysis, tmp_path: Path) -> None:
    """Table, figures, crossover and users of one run, each for the named pipelines."""
    folder = made_up.record.folder
    status, out, _ = harness("show", folder)
    assert (status, "link" in out) == (0, True)
    status, out, _ = harness("plot", folder, "--figure", "timings", "--out", tmp_path / "one")
    assert (status, {Path(line).stem for line in out.splitlines()}) == (0, {"timings", "timings_column"})
    assert {Path(line).name for line in out.splitlines()} == {path.name for path in (tmp_path / "one").iterdir()}
    status, out, err = harness("plot", folder, "--figure", "users", "--out", tmp_path / "two")
    assert (status, out, "'harness run scenarios/multi_user.yaml'" in err) == (2, "", True)
    assert not (tmp_path / "two").exists()
    status, out, _ = harness("crossover", folder, "tofc", "raw_features")
    assert (status, "tofc answers first below" in out, "raw_features above" in out) == (0, True, True)
    limits = ["--rate", "1 MB/s", "--limit", "2s", "--requests", 20]
    status, out, _ = harness("max-users", folder, "jpeg", *limits)
    assert (status, out.startswith("jpeg at quality=35,merge_to=0.044: ")) == (0, True)
    for asked in (["crossover", folder, "png", "tofc"], ["max-users", folder, "png", *limits]):
        status, _, err = harness(*asked)
        assert (status, "unknown pipeline 'png'; known: " in err) == (2, True)


@pytest.mark.slow
def test_a_run_in_which_nothing_reaches_is_shown_and_drawn(harness: Run, without: Path) -> None:
    """Its table and figures say so, with status 0; a command that needs a selected point is refused in a sentence."""
    status, out, _ = harness("show", without)
    assert (status, out.count("does not reach")) == (0, 6)
    status, out, err = harness("plot", without)
    assert (status, err, len(out.splitlines())) == (0, "", 21)
    status, _, err = harness("crossover", without, "jpeg", "webp")
    assert (status, "jpeg has no operating point that reaches the target score" in err) == (2, True)


def test_a_sweep_reports_requests_that_were_never_answered(harness: Run, made_up: Analysis, tmp_path: Path) -> None:
    """If requests time out the median is 'never', the mean is that of answered ones, and the rows are written."""
    (tmp_path / "sweep.yaml").write_text(
        "name: s\ntitle: t\nbenchmark: StreetsQA\nbackbone: mini-onevision\n"
        "pipelines: [{scheme: server_only}]\nselection: {reference: server_only, target: 1.0, margin: 0.1}\n"
        "replay: {uplinks: [{kind: constant, rate: 25 KB/s}], deadline: 500 ms, timeout: 600 ms}\n"
    )
    asked = ["--pipeline", "jpeg", "--pipeline", "server_only", "--out", tmp_path / "rows.parquet"]
    status, out, err = harness("sweep", made_up.record.folder, tmp_path / "sweep.yaml", *asked)
    assert (status, err) == (0, "")
    assert "in 500 ms" in out
    of_server_only = out.split("server_only at -")[1]
    assert "25 KB/s" in of_server_only
    assert of_server_only.split("25 KB/s")[1].split()[:6] == ["1", "never", "never", "-", "0.0%", "0.0%"]
    assert "for p50 and p99 a request that is never answered is the slowest" in " ".join(out.split())
    assert pq.read_schema(tmp_path / "rows.parquet") == schema(RequestRow)
