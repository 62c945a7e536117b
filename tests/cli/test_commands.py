"""The commands as a user meets them: what they print, where, and with which status."""

import inspect
import itertools
import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from harness.cli import app
from harness.cli.run import given
from harness.scenario.load import load
from harness.stock import take_stock
from tests import made_up_run

ROOT = Path(__file__).parents[2]
SCENARIOS = ROOT / "scenarios"

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.slow
def test_a_right_scenario_is_described_in_a_line(harness: Run) -> None:
    """Name, hash, and how much work it is."""
    status, out, err = harness("check", *SCENARIOS.glob("*.yaml"))
    assert (status, err) == (0, "")
    described = [line for line in out.splitlines() if not line.startswith(" ")]
    assert len(described) == len(list(SCENARIOS.glob("*.yaml")))
    assert "operating points" in out


@pytest.mark.slow
def test_the_points_that_a_check_counts_are_those_that_run(harness: Run) -> None:
    """If a stand-in of the backbone runs, its points are counted, not the wanted ones."""
    path = SCENARIOS / "realworldqa_lowrate.yaml"
    stock = take_stock(load(path))
    status, out, _ = harness("check", path)
    assert (status, stock.backbone != stock.scenario.backbone) == (0, True)
    assert f", {len(stock.points)} operating points, " in out
    assert len(stock.points) != sum(len(list(spec.operating_points())) for spec in stock.scenario.pipelines)


def test_a_wrong_scenario_exits_2_with_one_sentence_and_the_right_ones_are_still_checked(
    harness: Run, tmp_path: Path
) -> None:
    """All files of a batch are checked."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: a\nbenchmark: VQA\n")
    status, out, err = harness("check", wrong, SCENARIOS / "smoke.yaml")
    assert status == 2
    assert "smoke" in out
    assert all(line.startswith(f"harness: {wrong}") for line in err.splitlines())
    assert "unknown benchmark 'VQA'" in err


def test_a_folder_of_scenarios_is_no_scenario(harness: Run) -> None:
    """What is expected is said once."""
    said = f"harness: {SCENARIOS}: cannot be read: Is a directory; a scenario (a YAML file) is expected\n"
    assert harness("check", SCENARIOS) == (2, "", said)


@pytest.mark.slow
def test_a_value_on_the_command_line_makes_another_scenario(harness: Run) -> None:
    """Its hash differs, and so does the folder of its run."""
    smoke = SCENARIOS / "smoke.yaml"
    (_, plain, _), (status, other, _) = harness("check", smoke), harness("check", smoke, "--set", "measure.repeats=3")
    assert status == 0
    assert plain.split()[2] != other.split()[2]
    assert harness("check", smoke, "measure.repeats=3")[1] == other
    assert given(smoke, None)[1] == "smoke"
    assert given(smoke, ["measure.repeats=3"])[1] == f"smoke-{other.split()[2][:8]}"
    assert given(smoke, None, limit=8)[0].samples == 8


def test_a_check_needs_a_file(harness: Run) -> None:
    """A value alone is none."""
    status, _, err = harness("check", "measure.repeats=3")
    assert status == 2
    assert "measure.repeats=3 is a value; give a scenario file" in err


@pytest.mark.slow
def test_runs_are_listed(harness: Run, tmp_path: Path) -> None:
    """Each with its verdict; a damaged one is named with status 2, and an empty folder is reported."""
    made_up_run.make(tmp_path / "results" / "runs" / "first")
    made_up_run.make(tmp_path / "results" / "runs" / "more" / "second")
    status, out, _ = harness("runs")
    assert status == 0
    assert ["first" in out, "more/second" in out, out.count("VALID")] == [True, True, 2]
    (tmp_path / "results" / "runs" / "first" / "manifest.json").write_text("{")
    status, out, err = harness("runs")
    assert (status, "second" in out, "first" in err) == (2, True, True)


def test_what_is_no_folder_of_runs_is_said_to_be_what_it_is(harness: Run, tmp_path: Path) -> None:
    """Nothing, a file, or a folder without a run."""
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, said in (("absent", "there is no such folder"), ("file", "is a file"), ("empty", "holds no run")):
        status, _, err = harness("runs", tmp_path / name)
        assert (status, err.partition(";")[0]) == (2, f"harness: {tmp_path / name}: {said}")


def test_a_wrong_assignment_is_reported_before_the_file_is_read(harness: Run) -> None:
    """A second file is the most likely mistake."""
    status, _, err = harness("run", "a.yaml", "b.yaml")
    assert (status, err) == (2, "harness: 'b.yaml' is not an assignment such as measure.repeats=2\n")


def test_the_schema_is_json(harness: Run) -> None:
    """It can be redirected into a file for an editor."""
    status, out, _ = harness("schema")
    assert status == 0
    assert json.loads(out)["title"] == "Scenario"


def test_no_stand_in_says_how_to_install_what_is_absent(
    harness: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both the benchmark and the backbone are named, each with where it comes from; nothing is written."""
    monkeypatch.setenv("LMUData", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    status, _, err = harness("run", SCENARIOS / "realworldqa_lowrate.yaml", "--no-stand-in")
    assert status == 2
    benchmark, backbone = err.splitlines()
    assert "RealWorldQA" in benchmark
    assert "4de008f55dc4fd008ca9e15321dc44b7" in benchmark
    assert "llava-hf/llava-onevision-qwen2-7b-ov-hf" in backbone
    assert not (tmp_path / "results").exists()


def _absent(tmp_path: Path) -> Path:
    return tmp_path / "absent"


def _file(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_text("not a run")
    return file


def _strangers_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"")
    return folder


def _broken_manifest(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"schema_version": 1,')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("make", [_absent, _file, _strangers_folder, _broken_manifest])
@pytest.mark.parametrize("command", ["plot", "show"])
def test_what_is_not_a_run_is_refused_in_a_sentence(
    harness: Run, tmp_path: Path, command: str, make: Callable[[Path], Path]
) -> None:
    """Absent, a file, a folder of photographs, a truncated manifest: status 2, and the path is named."""
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, _, err = harness(command, path)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert str(path) in err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["run"], ["frobnicate"], ["check", "--strict"]])
def test_a_wrong_command_line_exits_2(harness: Run, arguments: Sequence[str]) -> None:
    """Typer's usage errors have the same exit status."""
    status, _, err = harness(*arguments)
    assert status == 2
    assert "Usage" in err


def _commands() -> dict[str, Any]:
    """Every command and group, by its words."""
    found: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        found[words] = command
        waiting += [(f"{words} {name}".strip(), of) for name, of in getattr(command, "commands", {}).items()]
    return found


COMMANDS = _commands()


def _examples(command: Any) -> list[str]:
    """The lines of the blocks of code in a command's help."""
    return [line[4:] for line in inspect.cleandoc(command.help or "").splitlines() if line.startswith("    ")]


@pytest.mark.slow
def test_examples_can_be_pasted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No example of any command's help is wrapped at 80 columns; each, with its lines joined, is a command line."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", False)
    wrapped, n = [], 0
    for words, command in COMMANDS.items():
        lines = _examples(command)
        command.make_context(f"harness {words}".strip(), [], resilient_parsing=True).get_help()
        shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
        wrapped += [line for line in lines if line.strip() and line.strip() not in shown]
        # Outside of a block of code it would be filled as a sentence is.
        wrapped += re.findall(r"^ {0,3}harness .*", inspect.cleandoc(command.help or ""), re.MULTILINE)
        for line in "\n".join(lines).replace("\\\n", " ").splitlines():
            if "harness" not in line.partition("#")[0].split():
                continue  # A line of a scenario.
            split = shlex.split(line, comments=True)
            arguments = list(itertools.takewhile(lambda word: word != ">", split[split.index("harness") + 1 :]))
            of = COMMANDS[""]
            while hasattr(of, "commands"):
                of = of.commands[arguments.pop(0)]
            of.make_context("harness", arguments)
            n += 1
    assert wrapped == []
    assert n > 40


@pytest.mark.slow
def test_no_word_of_a_help_is_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """At 60 columns every name, value and example of an option is whole."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", False)
    cut = []
    for words, command in COMMANDS.items():
        command.make_context(f"harness {words}".strip(), [], resilient_parsing=True).get_help()
        shown = capsys.readouterr().out.splitlines()
        assert len(shown) > 5
        cut += [f"{words}: {line}" for line in shown if "…" in line]
    assert not cut


@pytest.mark.slow
def test_help_teaches_with_an_example(harness: Run) -> None:
    """The command's own help names every command, and each has help of its own."""
    status, out, _ = harness("--help")
    assert status == 0
    assert "harness run scenarios/realworldqa_lowrate.yaml" in out
    for name in ("run", "plot", "show", "check", "schema"):
        assert name in out
        status, own, _ = harness(name, "--help")
        assert status == 0
        assert f"harness {name}" in own
