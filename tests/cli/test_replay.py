"""The commands on links and replays, from a recorder's file to a chain, and their error messages."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.analysis import Analysis
from harness.analysis.crossings import crossover
from harness.channel.markov import Chain
from harness.cli.advise import _system, not_applied
from harness.records import RequestRow, schema
from harness.scenario.replay import Wire
from tests.made_up_run import REPLAY, make

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


def test_rates_that_are_shown_leave_out_gaps(harness: Run, tmp_path: Path) -> None:
    """Mean and quantiles are over the same time: 4 s of 8 Mbit/s and 4 s of an outage, 92 s unknown between them."""
    (tmp_path / "a.csv").write_text("t_s,up_mbps\n0,8\n2,8\n96,0\n98,0\n")
    options = ["--time", "t_s", "--rate", "up_mbps", "--hold", "2 s"]
    status, out, _ = harness("trace", "import", "a.csv", "a.parquet", *options)
    assert status == 0
    assert " 100.0 s 500 KB/s 0 B/s / 0 B/s / 1 MB/s 4.0 s 92.0 s" in " ".join(out.split())
    (tmp_path / "b.up").write_text("0\n500\n1000\n")
    assert " 1.0 s 4.5 KB/s 3 packets" in " ".join(harness("trace", "import", "b.up", "b.parquet")[1].split())


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["join", "file", "file"], "file: is a file, and a run's folder is expected"),
        (["join", "none", "none"], "none: no such folder; 'harness measure SCENARIO --half device' makes one"),
        (["compare", "file", "file"], "file: is a file; a run or a folder of runs is expected"),
        (["compare", ".", "none"], "none: there is no such folder; a run or a folder of runs is expected"),
        (["claims", "file"], "file: is a file; a run or a folder of runs is expected"),
        (["report", "none"], "none: there is no such folder; a run or a folder of runs is expected"),
        (["check", "none.yaml", "--results", "file"], "file: is a file; the folder of the runs is expected"),
        (["trace", "import", ".", "out.parquet"], "is a folder"),
        (["trace", "show", "none.parquet"], "does not exist; 'harness trace import FILE none.parquet'"),
        (["sweep", "none", "scenario.yaml"], "no such folder"),
        (["advise", "none", "--rate", "1 MB/s", "--deadline", "1 s"], "no such folder"),
        (["crossover", "none", "a", "b"], "no such folder"),
        (["max-users", "none", "a", "--rate", "1 MB/s", "--limit", "1 s"], "no such folder"),
        (["plan", "none"], "none: there is no such folder or file; a run's folder is expected, or the scenario (a"),
        (["illustrate", "none"], "No such file or directory; a scenario (a YAML file) is expected"),
        (["show", "runs"], "runs: is a folder of runs, not a run; give one of them: one, two"),
        (["trace", "show", "25 KB/s"], "25 KB/s: is a rate, and a recording is expected, a .parquet file"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_two(
    harness: Run, tmp_path: Path, arguments: list[str], said: str
) -> None:
    """No traceback; the sentence names what is wrong."""
    (tmp_path / "file").write_text("")
    for name in ("two", "one"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "manifest.json").touch()
    status, _, err = harness(*arguments)
    assert status == 2
    assert said in err
    assert "Traceback" not in err
    assert err.count("\n") == 1


def test_a_rate_and_a_link_are_told_apart(harness: Run, tmp_path: Path) -> None:
    """By each command that takes either, which names the option for what was given."""
    (tmp_path / "bus.parquet").touch()
    commands = {
        ("advise", "none", "--deadline", "1 s"): "--rate",
        ("max-users", "none", "a", "--limit", "1 s"): "--rate",
        ("crossover", "none", "a", "b"): "--low and --high",
    }
    for command, option in commands.items():
        status, _, err = harness(*command, "--link", "25 KB/s")
        said = " ".join(err.replace("│", " ").split())
        assert status == 2
        assert f"'25 KB/s' is a rate, and the file of a recorded link is expected; give a rate with {option}" in said
        if option == "--rate":
            status, _, err = harness(*command, "--rate", "bus.parquet")
            said = " ".join(err.replace("│", " ").split())
            assert (status, "is a file; a recorded link is given with --link" in said) == (2, True)


def test_a_runs_name_is_taken_for_its_folder_in_the_message(harness: Run, tmp_path: Path) -> None:
    """Where it is among the results."""
    (tmp_path / "results/runs/mine").mkdir(parents=True)
    (tmp_path / "results/runs/mine/manifest.json").touch()
    status, _, err = harness("show", "mine")
    assert (status, "mine: no such folder; did you mean results/runs/mine? " in err) == (2, True)


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
    assert (status, "\njpeg at quality=35,merge_to=0.044: " in out) == (0, True)
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


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """An INVALID run whose system batches, over links with headers, with answers that have a size."""
    uplinks = [{**link, "wire": {**Wire().model_dump(), "header_bytes": 40}} for link in REPLAY["uplinks"]]
    replay = {
        "uplinks": uplinks,
        "batching": {"max_batch": 4, "window_s": 0.05, "marginal": 0.5, "together": ["prefill"]},
        "answer": {"size_bytes": 100, "rate_bps": 8e6, "propagation_s": 0.0},
    }
    return Analysis(make(tmp_path_factory.mktemp("runs") / "odd", reasons=(HOT,), replay=replay))


HOT = "throttled: GPU at 95 C"
ASKED: dict[str, list[object]] = {
    "advise": ["--rate", "50 KB/s", "--deadline", "1s"],
    "crossover": ["tofc", "jpeg"],
    "max-users": ["jpeg", "--rate", "1 MB/s", "--limit", "1ms", "--requests", 10],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", ASKED)
def test_what_an_answer_rests_on_comes_before_it(harness: Run, odd: Analysis, command: str) -> None:
    """The run's labels, why it is INVALID, and the settings of its replay that are not applied are the first lines."""
    status, out, err = harness(command, odd.record.folder, *ASKED[command])
    assert (status in (0, 1), err) == (True, "")
    left = "settings of the run's own replay that are not applied here: batching, answer, wire (header)"
    assert " ".join(out.split()).startswith(f"{' '.join(_labels(odd))} INVALID: {HOT} {left} ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("advise", ["--deadline", "1s"]),
        ("crossover", ["tofc", "jpeg"]),
        ("max-users", ["jpeg", "--limit", "1ms", "--requests", 10]),
    ],
)
def test_what_of_a_link_was_not_recorded_is_said(
    harness: Run, made_up: Analysis, tmp_path: Path, command: str, asked: list[object]
) -> None:
    """Its gaps are replayed as an outage, which no option of these commands changes."""
    (tmp_path / "a.csv").write_text("t_s,up_mbps\n0,8\n2,8\n96,4\n98,8\n")
    link = tmp_path / "a.parquet"
    for hold in (["--hold", "2 s"], []):
        columns = ["--time", "t_s", "--rate", "up_mbps", *hold]
        assert harness("trace", "import", tmp_path / "a.csv", link, *columns)[0] == 0
        status, out, err = harness(command, made_up.record.folder, *asked, "--link", link)
        assert (status in (0, 1), err) == (True, "")
        assert ("92 of the 100 s of the link a were not recorded" in " ".join(out.split())) == bool(hold)


@pytest.mark.slow
@pytest.mark.parametrize("gaps", ["outage", "hold"])
def test_what_of_a_scenarios_link_was_not_recorded_is_said(
    harness: Run, made_up: Analysis, tmp_path: Path, gaps: str
) -> None:
    """And what is replayed there: by ``check``, before a sweep's numbers, and by ``replay``."""
    (tmp_path / "a.csv").write_text("t_s,up_mbps\n0,8\n2,8\n96,4\n98,8\n")
    columns = ["--time", "t_s", "--rate", "up_mbps", "--hold", "2 s"]
    assert harness("trace", "import", tmp_path / "a.csv", tmp_path / "a.parquet", *columns)[0] == 0
    uplink = f"{{ kind: trace, path: a.parquet, gaps: {gaps} }}"
    scenario = tmp_path / "gaps.yaml"
    scenario.write_text(
        "name: gaps\ntitle: Gaps\nbenchmark: StreetsQA\nbackbone: mini-onevision\nsamples: 8\n"
        "pipelines: [{ scheme: jpeg, points: [{ quality: 10 }] }]\n"
        "selection: { reference: jpeg, target: 1.0, margin: 0.1 }\n"
        f"replay: {{ uplinks: [{uplink}], seeds: 2 }}\n"
    )
    instead = {"outage": "as outages", "hold": "at the rate before them, if there is one"}[gaps]
    wanted = f"92 of the 100 s of the link a were not recorded and are replayed {instead}"
    for asked in (
        ["check", scenario],
        ["sweep", made_up.record.folder, scenario, "--pipeline", "jpeg"],
        ["replay", made_up.record.folder, scenario],
    ):
        status, out, err = harness(*asked)
        assert status == 0, err
        assert wanted in " ".join((out + err).replace("│", "").split()), asked[0]


@pytest.mark.slow
def test_a_sweep_and_a_plan_of_an_invalid_run_say_so(harness: Run, odd: Analysis, tmp_path: Path) -> None:
    """Its labels and reasons are the first lines."""
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    for asked in (["sweep", odd.record.folder, tmp_path / "sweep.yaml", "--pipeline", "jpeg"],
                  ["plan", odd.record.folder]):  # fmt: skip
        status, out, err = harness(*asked)
        assert (status, err) == (0, "")
        assert " ".join(out.split()).startswith(f"{' '.join(_labels(odd))} INVALID: {HOT} ")


def _labels(run: Analysis) -> list[str]:
    assert "StreetsQA for RealWorldQA" in run.manifest.label
    return [label for label in (run.manifest.label, run.manifest.untuned) if label]


def test_settings_at_their_defaults_are_not_left_out(made_up: Analysis) -> None:
    """The paper's system is applied whole, by whatever round trip and users; another's servers are named."""
    own = made_up.manifest.scenario_value("replay")
    asked = _system(1e6, None, 0.06), _system(1e6, None, 0.06, users=3, per_user=0.2, servers=2)
    assert [not_applied(own, spec) for spec in asked] == [[], []]
    served = {**own, "servers": 2, "timeout_s": 3.0}
    assert not_applied(served, _system(1e6, None, 0.0)) == ["servers", "timeout"]
    assert not_applied(served, _system(1e6, None, 0.0, servers=2)) == ["timeout"]


def test_the_questions_text_is_sent_where_the_replayed_section_says_so(made_up: Analysis) -> None:
    """Not where the run's own does: 60 bytes more of every scheme that sends anything, and none of the other."""
    for plain, asked in zip(made_up.profiles(), made_up.profiles(question_text=True), strict=True):
        added = 0 if plain.pipeline == "device_only" else 60
        assert (asked.payload_bytes == plain.payload_bytes + added).all()
    assert made_up.profiles(question_text=False) == made_up.profiles()


@pytest.mark.slow
def test_a_crossing_that_pictures_leave_open_is_not_denied(harness: Run, made_up: Analysis) -> None:
    """Next to a crossing, within its interval, the means alone say who is first; one scheme twice is refused."""
    one, other = (made_up.selected_profile(name) for name in ("tofc", "jpeg"))
    spec, population = _system(1e6, None, 0.0), made_up.population
    rate = crossover(one, other, spec, low_bps=1e4, high_bps=1e8, population=population).rate_bps
    assert rate is not None
    assert rate.low < 1.001 * rate.value < rate.high
    near = ["--low", f"{1.0005 * rate.value} bit/s", "--high", f"{1.001 * rate.value} bit/s"]
    status, out, _ = harness("crossover", made_up.record.folder, "tofc", "jpeg", *near)
    assert status == 0
    assert "by the means only: the timed pictures leave open whether they cross there" in out
    assert "do not cross" not in out
    status, out, err = harness("crossover", made_up.record.folder, "jpeg", "jpeg")
    assert (status, out) == (2, "")
    assert "jpeg is given twice; name two pipelines of the run" in " ".join(err.split())


SWEEP = (
    "name: s\ntitle: t\nbenchmark: StreetsQA\nbackbone: mini-onevision\n"
    "pipelines: [{scheme: server_only}]\nselection: {reference: server_only, target: 1.0, margin: 0.1}\n"
    "replay: {uplinks: [{kind: constant, rate: 25 KB/s}], deadline: 500 ms, timeout: 600 ms}\n"
)


@pytest.mark.slow
def test_a_sweep_reports_requests_that_were_never_answered(harness: Run, made_up: Analysis, tmp_path: Path) -> None:
    """If requests time out the median is 'never', the mean is that of answered ones, and the rows are written."""
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    asked = ["--pipeline", "jpeg", "--pipeline", "server_only", "--out", tmp_path / "rows.parquet"]
    status, out, err = harness("sweep", made_up.record.folder, tmp_path / "sweep.yaml", *asked)
    assert (status, err) == (0, "")
    assert "in 500 ms" in out
    of_server_only = out.split("server_only at -")[1]
    assert "25 KB/s" in of_server_only
    assert of_server_only.split("25 KB/s")[1].split()[:6] == ["1", "never", "never", "-", "0.0%", "0.0%"]
    assert "for p50 and p99 a request that is never answered is the slowest" in " ".join(out.split())
    assert pq.read_schema(tmp_path / "rows.parquet") == schema(RequestRow)
