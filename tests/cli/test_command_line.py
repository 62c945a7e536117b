"""The command line itself: names are shown unchanged, outputs are checked first, and Ctrl-C is reported."""

import functools
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from rich.panel import Panel
from rich.table import Table

from harness import apart, record, study
from harness.channel import recording
from harness.cli import guarded
from harness.cli.app import Interrupted
from harness.cli.display import Display, terminal
from harness.errors import CheckpointError, placed
from tests.made_up_run import make

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]

NAME = "LTE [urban] [/lte] :up: $5_$ größe 東京"


def _scenario(path: Path, **replay: object) -> Path:
    scenario = yaml.safe_load((ROOT / "scenarios" / "smoke.yaml").read_text())
    path.write_text(yaml.safe_dump({**scenario, "replay": {**scenario["replay"], **replay}}, allow_unicode=True))
    return path


def test_a_console_prints_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """In a line, a table's title and cells, a panel, and a bar, brackets are brackets and colons colons."""
    console = terminal(width=200)
    table = Table("uplink", title=NAME)
    table.add_row(NAME)
    console.print(NAME, table, Panel(NAME))
    with Display(console) as display:
        display.warn(NAME)
        display.line(NAME)
        display.phase(NAME, total=1, done=0)
    assert capsys.readouterr().out.count(NAME) == 7


def test_without_a_terminal_a_line_a_minute_says_how_long_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the steps of this process alone: earlier steps took another process's time."""
    now_s = itertools.chain([0.0, 50.0, 100.0, 110.0, 400.0], itertools.repeat(500.0))
    monkeypatch.setattr("harness.cli.display.time.monotonic", lambda: next(now_s))
    display = Display(terminal(width=200))
    display.phase("answers", total=15, done=10)
    for _ in range(5):
        display.advance()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["answers: 3 steps left, about 2 min 30 s", "answers: 1 steps left, about 1 min 40 s"]


@pytest.mark.slow
def test_where_no_step_is_done_a_line_says_for_how_long_and_where(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At intervals that double, until the phase is done; a scheme's code may hang."""
    monkeypatch.setattr("harness.cli.display._LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("harness.cli.display._STILL_S", 0.2)
    with Display(terminal(width=200)) as display:
        display.phase("answers", total=1, done=0)
        with placed("mine at levels=8", "[lte]"):
            time.sleep(1.0)
        display.advance()
        time.sleep(0.5)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "no step" in line] == lines[1:]
    assert 1 <= len(lines[1:]) <= 3
    assert all(
        re.fullmatch(r"answers: no step for .+, at mine at levels=8, sample \[lte\]", line) for line in lines[1:]
    )


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 120])
def test_a_sweep_shows_an_uplinks_name_as_it_is(
    harness: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """The name that the scenario gives is in the table, wrapped if there is no room; no number is cut."""
    monkeypatch.setenv("COLUMNS", str(columns))
    make(tmp_path / "run")
    scenario = _scenario(tmp_path / "s.yaml", uplinks=[{"kind": "constant", "rate": "25 KB/s", "name": NAME}])
    status, out, _ = harness("sweep", tmp_path / "run", scenario, "--pipeline", "jpeg")
    assert status == 0
    assert "…" not in out
    *_, above, below = (line for line in out.partition("±:")[0].splitlines() if line.strip())
    assert NAME in (below if columns == 120 else f"{above.partition('  ')[0]} {below.strip()}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_sweep_writes_what_the_files_ending_says(harness: Run, tmp_path: Path, name: str) -> None:
    """CSV under .csv, Parquet under .parquet; the same rows."""
    make(tmp_path / "run")
    scenario = _scenario(tmp_path / "s.yaml")
    (tmp_path / "new").mkdir()
    assert harness("sweep", tmp_path / "run", scenario, "--pipeline", "tofc", "--out", tmp_path / "new" / name)[0] == 0
    content = (tmp_path / "new" / name).read_bytes()
    assert content.startswith(b"PAR1" if name.endswith(".parquet") else b'"replay","pipeline","point"')
    assert [file.name for file in (tmp_path / "new").iterdir()] == [name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep", "none", "s.yaml", "--out", "rows.txt"], "rows.txt: rows are written to a file whose name ends in"),
        (["sweep", "none", "s.yaml", "--out", "file/rows.csv"], "file/rows.csv: cannot be written: Not a directory"),
        (
            ["sweep", "none", "s.yaml", "--out", "new/a.csv"],
            "new/a.csv: cannot be written: there is no folder new; make",
        ),
        (["report", "none", "--out", "new/a.html"], "new/a.html: cannot be written: there is no folder new; make it"),
        (["report", "none", "--trace", "new/a.json"], "new/a.json: cannot be written: there is no folder new; make"),
        (["show", "none", "--out", "new/a.csv"], "new/a.csv: cannot be written: there is no folder new; make it first"),
        (["compare", "none", "none", "--out", "new/a.md"], "new/a.md: cannot be written: there is no folder new; make"),
        (
            ["pack", "none", "s.yaml", "--out", "new/a.tar.gz"],
            "new/a.tar.gz: cannot be written: there is no folder new",
        ),
        (["trace", "import", "none.up", "new/x.parquet"], "new/x.parquet: cannot be written: there is no folder new"),
        (["trace", "import", "none.up", "file/x.parquet"], "file/x.parquet: cannot be written: Not a directory"),
        (["trace", "import", "none.up", "x.csv"], "x.csv: a recording is written as Parquet"),
        (["trace", "fit", "none.parquet", "--out", "file/x.json"], "file/x.json: cannot be written: Not a directory"),
        (["trace", "fit", "none.parquet", "--out", "x.parquet"], "x.parquet: a chain is written as JSON"),
        (["run", "s.yaml", "--results", "file"], "file/smoke: cannot be written: Not a directory: a part of this"),
        (["run", "s.yaml", "--name", "file", "--results", "."], "file: is a file; a run is a folder"),
        # Not even root writes there.
        (["run", "s.yaml", "--results", "/sys"], "/sys/smoke: cannot be written: "),
        (["measure", "s.yaml", "--half", "device", "--results", "file"], "file/smoke-device: cannot be written: Not"),
        (
            ["join", "none", "none", "--name", "a", "--results", "file/b"],
            "file/b/a: cannot be written: Not a directory",
        ),
        (["replay", "none", "s.yaml", "--results", "file"], "file: cannot be written: Not a directory"),
        (["plot", "none", "--out", "file"], "file: cannot be written: Not a directory"),
        (["compare", "s.yaml", "--against", "HEAD", "--results", "file"], "file: cannot be written: Not a directory"),
        (
            ["train", ROOT / "training" / "mini_smoke.yaml", "--set", "out=file/x"],
            "--set out=file/x: file is a file; a folder is expected",
        ),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_computed(
    harness: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[object], said: str
) -> None:
    """Before the inputs are read: none of these exists but the scenario, and of that no benchmark is read."""
    for module in (study, apart):
        monkeypatch.setattr(module, "take_stock", lambda *_, **__: pytest.fail("benchmarks were read"))
    (tmp_path / "file").write_text("")
    _scenario(tmp_path / "s.yaml")
    status, _, err = harness(*arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert said in err


@pytest.mark.slow
@pytest.mark.parametrize("seconds", ["0s", "0 ms", "-1 s", "nan s", "1e99 s"])
def test_a_length_of_nothing_is_refused(harness: Run, tmp_path: Path, seconds: str) -> None:
    """A bin, a hold, a gap and a step must be longer than 0."""
    (tmp_path / "a.up").write_text("0\n12\n")
    for option in ("--bin", "--hold", "--split"):
        status, _, err = harness("trace", "import", "a.up", "a.parquet", option, seconds)
        assert status == 2
        assert option in err
    assert harness("trace", "fit", "a.parquet", "--out", "a.json", "--step", seconds)[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", ".", "..", "../../x", "a/b", "/x", ".hidden", "-x", " ", "a\nb", "n" * 300])
def test_a_runs_name_is_that_of_a_folder(harness: Run, name: str) -> None:
    """Every command that takes one refuses a path, before it looks at its inputs."""
    for command in (
        ["run", "s.yaml"],
        ["measure", "s.yaml", "--half", "device"],
        ["join", "a", "b"],
        ["replay", "a", "s.yaml"],
        ["illustrate", "s.yaml"],
    ):
        status, _, err = harness(*command, f"--name={name}")
        assert status == 2
        assert "is not the name of" in " ".join(err.replace("│", " ").split())


def test_a_scenarios_name_in_place_of_its_file_is_explained(harness: Run, tmp_path: Path) -> None:
    """The sentence names the file that may be meant."""
    (tmp_path / "scenarios").mkdir()
    _scenario(tmp_path / "scenarios" / "smoke.yaml")
    for command in (["run", "smoke"], ["check", "smoke"], ["reference", "update", "--reason", "r", "smoke"]):
        status, _, err = harness(*command)
        assert (status, "did you mean scenarios/smoke.yaml?" in err) == (2, True)


def test_a_file_of_the_recorder_is_not_taken_for_a_run(harness: Run, tmp_path: Path) -> None:
    """It is not shown, and the sentence names the command for it."""
    with record(tmp_path / "own.parquet").request("q") as r, r.stage("prefill"):
        pass
    status, _, err = harness("show", "own.parquet")
    assert (status, err.count("\n")) == (2, 1)
    assert "own.parquet: is a file" in err
    assert "profile: [{ path: own.parquet" in err


def test_an_option_is_named_as_it_is_written(harness: Run) -> None:
    """A mistake in --per-user is one in --per-user."""
    common = ["max-users", "none", "a", "--rate", "1 MB/s", "--limit", "1 s"]
    for option, value in (("--per-user", "3"), ("--per-user", "0 /s"), ("--sharing", "half")):
        status, _, err = harness(*common, option, value)
        assert status == 2
        assert f"'{option}'" in err


@pytest.mark.slow
def test_units_are_the_same_everywhere(harness: Run, tmp_path: Path) -> None:
    """--unit accepts what --rate accepts."""
    (tmp_path / "a.csv").write_text("time_s,up\n0,5\n1,5\n")
    for unit in ("mbps", "Mbps", "Mbit/s"):
        assert harness("trace", "import", "a.csv", "a.parquet", "--rate", "up", "--unit", unit)[0] == 0
        assert recording.load(tmp_path / "a.parquet").rate_bps[0] == 5e6  # type: ignore[union-attr]
        assert "no such folder" in harness("advise", "none", "--rate", f"5 {unit}", "--deadline", "1s")[2]


@pytest.mark.slow
def test_what_was_done_to_a_trace_is_reported(harness: Run, tmp_path: Path) -> None:
    """At the import, and whenever the recording is shown."""
    (tmp_path / "a.up").write_text("1700000000000\n1700000000012\n")
    for arguments in (["trace", "import", "a.up", "a.parquet"], ["trace", "show", "a.parquet"]):
        status, out, _ = harness(*arguments)
        assert status == 0
        assert "a.parquet: its stamps are milliseconds since 1970" in out


def test_check_opens_what_a_scenario_names(harness: Run, tmp_path: Path) -> None:
    """A missing or wrong trace, chain or arrivals are all reported, with the scenario; a right one is not."""
    recording.save(recording.PacketRecording([0, 12], 1500, "p"), tmp_path / "good.parquet")  # type: ignore[arg-type]
    (tmp_path / "chain.json").write_text("{}")
    (tmp_path / "asked.csv").write_text("at_s,user\n0,\n")
    uplinks = [
        {"kind": "trace", "path": "good.parquet"},
        {"kind": "trace", "path": "none.parquet"},
        {"kind": "markov", "path": "chain.json"},
    ]
    wrong = _scenario(tmp_path / "s.yaml", uplinks=uplinks, arrivals={"kind": "recorded", "path": "asked.csv"})
    status, out, err = harness("check", wrong)
    assert (status, out, err.count("\n")) == (2, "", 3)
    for name in (
        "none.parquet: does not exist",
        "chain.json: rate_bps: Field required",
        "asked.csv: row 1 has nothing",
    ):
        assert f"{wrong}: {tmp_path / name}" in err
    assert harness("check", _scenario(tmp_path / "s.yaml", uplinks=uplinks[:1]))[0] == 0


def test_flags_have_no_type(harness: Run) -> None:
    """A flag takes no value, so none is named beside it."""
    status, out, _ = harness("run", "--help")
    assert status == 0
    assert "--fresh" in out
    assert "bool" not in out.lower()


def _process(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="ascii",
        errors="strict",
        env={**os.environ, "PYTHONPATH": path, **environment},
        start_new_session=True,
        # A shell makes its background processes ignore the signal, and children inherit that.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["check"], "harness: interrupted\n"),
        (["train"], "harness: interrupted; repeat the command to resume\n"),
        (["trace", "import"], "harness: interrupted\n"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_ctrl_c_is_a_sentence_and_status_130(tmp_path: Path, command: list[str], said: str) -> None:
    """Whatever a command waits for; commands that can be resumed say how."""
    os.mkfifo(pipe := tmp_path / "pipe.yaml")
    process = _process(*command, pipe, *([tmp_path / "out.parquet"] if "import" in command else []))
    # The command is running when it has opened the pipe: only then can it be opened to write without waiting.
    with pipe.open("wb", buffering=0):
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", said)


@pytest.mark.slow
def test_a_terminal_that_has_only_ascii_gets_escapes(tmp_path: Path) -> None:
    """Names with other characters, and paths that are not text, are shown with escapes."""
    path = tmp_path / os.fsdecode("größe-".encode() + b"\xff.yaml")
    path.write_text("name: a\ntitel: x\n")
    process = _process("check", path, PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert r"gr\xf6\xdfe-\udcff.yaml:2: titel: unknown key; did you mean 'title'?" in err


@pytest.mark.parametrize("command", ["check", "show", "plot", "inspect", "train"])
def test_a_name_that_no_file_system_has_is_a_sentence(harness: Run, command: str) -> None:
    """Checking whether a path exists may fail, too; from Python 3.14 on some checks say that there is no such path."""
    status, _, err = harness(command, "n" * 300)
    assert (status, err.count("\n")) == (2, 1)
    assert "File name too long" in err or (sys.version_info >= (3, 14) and "no such folder" in err)


@pytest.mark.parametrize(
    ("mistake", "status", "sentence"),
    [
        (CheckpointError("a.safetensors: is no checkpoint"), 2, "tool: a.safetensors: is no checkpoint\n"),
        (KeyboardInterrupt(), 130, "tool: interrupted; repeat the command to resume\n"),
        (Interrupted("mine, sample 3"), 130, "tool: interrupted at mine, sample 3; repeat the command to resume\n"),
        (None, 0, ""),
    ],
)
def test_a_tool_or_recipe_ends_as_a_command_does(
    mistake: BaseException | None, status: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a sentence that begins with its name, and the exit statuses of the commands."""

    def command() -> None:
        if mistake is not None:
            raise mistake

    with pytest.raises(SystemExit) as exit_:
        guarded(command, "tool", resumes=True)
    assert (exit_.value.code or 0, capsys.readouterr().err) == (status, sentence)
