"""Restarted pairs: their processes, requests, stored results, and failures.

The processes are real; what they run is a few lines that speak as ``harness/timing_worker.py`` does.
"""

import functools
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import paired
from harness.analysis.slowdown import Gate
from harness.errors import ResultsError
from harness.paired import Design, Series
from harness.runs import digests

WORKER = """
import json, os, sys, time
facts = {"package": os.environ["PYTHONPATH"], "packages": {}, "machine": "m", "questions": "q",
    "points": [["tofc", "-"]]}
if os.path.exists("odd"):
    facts.update(json.load(open("odd")))
if os.path.exists("broken"):
    sys.exit("no such scheme")
print(json.dumps(facts), flush=True)
slow = float(open("seconds").read())
for line in sys.stdin:
    if os.path.exists("hangs"):
        time.sleep(60)
    if os.path.exists("dies"):
        os._exit(9)
    with open("turns", "a") as turns:
        turns.write(f"{os.getpid()} {line}")
    turn, pipeline, point = json.loads(line)
    print(json.dumps([[pipeline, point, "device", "encode", slow + turn, 0.0]]), flush=True)
"""


class Told:
    """A reporter that records its calls."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int, int]] = []
        self.steps = 0

    def warn(self, text: str) -> None: ...

    def phase(self, name: str, total: int, done: int) -> None:
        self.phases.append((name, total, done))

    def advance(self) -> None:
        self.steps += 1


@pytest.fixture
def series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Series:
    """Three pairs of two turns of two commits that are folders."""
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    monkeypatch.setattr(paired, "_WORKER", worker)
    sides = {side: tmp_path / side for side in ("reference", "candidate")}
    for side, folder in sides.items():
        folder.mkdir()
        (folder / "seconds").write_text("1.0" if side == "reference" else "1.5")
    return Series(tmp_path / "s.yaml", sides, tmp_path / "pairs", Design(pairs=3, turns=2, warmup=1))


def test_each_pair_is_two_new_processes_that_take_turns(series: Series) -> None:
    """Every turn once by each side, the warm-up dropped; the next pair has other processes."""
    rows = series.timed("first", Told())
    assert len(rows) == 3 * 2 * 2
    assert set(rows[rows["side_of"] == "candidate"]["seconds"]) == {1.5, 2.5}
    assert rows.groupby(["pair", "turn"])["side_of"].nunique().eq(2).all()
    asked = [line.split(maxsplit=1) for line in (series.sides["reference"] / "turns").read_text().splitlines()]
    assert len({process for process, _ in asked}) == 3
    assert [json.loads(request)[0] for _, request in asked] == [0, 0, 1] * 3


@pytest.mark.slow
def test_the_order_within_pairs_is_drawn(series: Series) -> None:
    """Each side leads in half of a pair's turns, in an order of the pair's own that the seed gives again."""
    series.design = Design(pairs=2, turns=8, warmup=0)
    series.timed("first", Told())
    leads = [json.loads(path.read_text())["leads"] for path in sorted((series.folder / "first").iterdir())]
    assert [sum(map(sum, of_pair)) for of_pair in leads] == [4, 4]
    assert leads[0] != leads[1]
    assert series.pair("first", 1)["leads"] == leads[1]
    assert series.pair("second", 1)["leads"] != leads[1]


def test_a_point_of_one_commit_is_timed_there_alone(series: Series) -> None:
    """What both have is timed in both."""
    (series.sides["candidate"] / "odd").write_text(json.dumps({"points": [["tofc", "-"], ["new", "-"]]}))
    rows = series.timed("first", Told())
    sides = rows.groupby("pipeline")["side_of"].unique().map(sorted).to_dict()
    assert sides == {"new": ["candidate"], "tofc": ["candidate", "reference"]}


@pytest.mark.slow
def test_finished_pairs_are_not_timed_again(series: Series) -> None:
    """A killed comparison is resumed with the missing pair, and says how many there were."""
    before = series.timed("first", Told())
    (series.folder / "first" / "pair-001.json").unlink()
    (series.sides["candidate"] / "seconds").write_text("9.0")
    told = Told()
    again = series.timed("first", told)
    assert told.phases == [("first set of pairs", 3, 2)]
    assert told.steps == 1
    assert again[again["pair"] != 1].equals(before[before["pair"] != 1])
    assert set(again[(again["pair"] == 1) & (again["side_of"] == "candidate")]["seconds"]) == {9.0, 10.0}


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", '{"rows": [[0', "[]", '{"rows": [[1]], "machine": "m"}', '{"rows": []}'])
def test_a_damaged_pair_is_named(series: Series, content: str) -> None:
    """With what to do; once it is removed it is timed again."""
    before = series.timed("first", Told())
    damaged = series.folder / "first" / "pair-001.json"
    damaged.write_text(content)
    with pytest.raises(ResultsError, match=r"pair-001\.json: is damaged; remove it, and this pair is timed again$"):
        series.timed("first", Told())
    damaged.unlink()
    assert len(series.timed("first", Told())) == len(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("broken", "", "the candidate cannot time this scenario: no such scheme"),
        ("dies", "", "the candidate cannot time this scenario: it was killed"),
        ("odd", json.dumps({"questions": "other"}), "the two commits ask different questions"),
        ("odd", json.dumps({"packages": {"torch": "1"}}), "ran with different packages"),
        ("odd", json.dumps({"package": "/"}), "the candidate ran the code of /, not of"),
    ],
)
def test_what_cannot_be_timed_is_one_sentence(series: Series, file: str, content: str, words: str) -> None:
    """The sentence of the process that failed, or the difference; no pair is left behind."""
    (series.sides["candidate"] / file).write_text(content)
    with pytest.raises(ResultsError, match=words):
        series.timed("first", Told())
    assert not list((series.folder / "first").iterdir())


def test_an_unknown_commit_is_reported() -> None:
    """Before anything is checked out; options are not commits."""
    for commit in ("no-such-tag", "--help"):
        with (
            pytest.raises(ResultsError, match=f"--against {commit}: no such commit or tag"),
            paired.checked_out(commit),
        ):
            pass


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Git in a repository of two commits, which replaces the harness's own."""
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.setattr(paired, "ROOT", folder)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def git(*arguments: Any) -> str:
        return paired._git("-c", "user.name=n", "-c", "user.email=e", *map(str, arguments), check=True)

    git("init", "--quiet")
    (folder / "file").write_text("one")
    git("add", "file")
    git("commit", "--quiet", "-m", "one")
    (folder / "file").write_text("two")
    git("commit", "--quiet", "-am", "two")
    return git


def test_a_commit_is_checked_out_and_removed(repository: Callable[..., str]) -> None:
    """Its files are in a separate folder, which is removed afterwards, also for git."""
    with paired.checked_out("HEAD~1") as (full, tree):
        assert (tree / "file").read_text() == "one"
        assert len(full) == 40
    assert not tree.exists()
    assert len(repository("worktree", "list").splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_leaves_no_worktree(
    repository: Callable[..., str], tmp_path: Path, number: signal.Signals
) -> None:
    """It removes its own on SIGTERM; after a kill the next comparison does."""
    ours, theirs = multiprocessing.Pipe()

    def wait() -> None:
        with paired.checked_out("HEAD"):
            theirs.send("ready")
            time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=wait)
    process.start()
    assert ours.poll(30)
    with paired.checked_out("HEAD"):
        assert len(repository("worktree", "list").splitlines()) == 3  # A living process's worktree is not removed.
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(30)
    left = list((tmp_path / "temporary").iterdir())
    if number == signal.SIGTERM:
        assert process.exitcode == 128 + number
        assert not left
    else:
        assert len(left) == 1
        with paired.checked_out("HEAD"):
            pass
        assert not list((tmp_path / "temporary").iterdir())
    assert len(repository("worktree", "list").splitlines()) == 1


def test_a_process_that_hangs_is_ended_and_named(series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended at the time limit, and its pair is not stored."""
    (series.sides["candidate"] / "hangs").touch()
    monkeypatch.setattr(paired, "_PATIENCE_S", 1.0)
    with pytest.raises(ResultsError, match=r"the candidate has not answered for 1 s, and was ended"):
        series.timed("first", Told())
    assert not list((series.folder / "first").iterdir())


@pytest.mark.slow
def test_pairs_depend_on_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pairs timed with other weights are not resumed from; with the same, the digests are the same."""
    file = tmp_path / "s.yaml"
    file.write_text(Path("scenarios/smoke.yaml").read_text())
    before = paired.depended_on(file)
    assert paired.depended_on(file) == before
    real = digests.of_file
    monkeypatch.setattr(digests, "of_file", lambda path: real(path) + "'" * (path.name == "codec.safetensors"))
    now = paired.depended_on(file)
    assert [name for name in before if now[name] != before[name]] == ["weights"]


@pytest.mark.slow
def test_a_limit_on_no_stage_is_refused_after_one_pair(series: Series) -> None:
    """Names that are right pass: a stage's, with its side or without, a side's and the short stages' together."""
    reporter = Told()
    with pytest.raises(ResultsError, match=r"unknown stage 'encod'.*encode"):
        series.timed(
            "first", reporter, check=functools.partial(paired._refuse_unknown, gate=Gate(effects={"encod": 0.1}))
        )
    assert len(list((series.folder / "first").iterdir())) == reporter.steps == 1
    named = dict.fromkeys(("encode", "device/encode", "device", "total", "other stages"), 0.1)
    series.timed("first", reporter, check=functools.partial(paired._refuse_unknown, gate=Gate(effects=named)))
    assert reporter.steps == 3
