"""The nightly: what it runs, its status, its history and the figure of it. Scenarios are not run here."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness import paired
from harness.analysis.regression import Check, Comparison
from harness.errors import ResultsError
from harness.report.regressions import Found
from harness.runs import provenance
from tools import nightly


@pytest.fixture
def night(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The inputs of a night, to be changed: the outcome of each scenario's run, and what is compared and timed."""
    monkeypatch.chdir(tmp_path)
    check = Check(quantity="bytes", status="same", compared=3)
    run = Comparison(name="smoke", reference="a", candidate="b", label="", basis=(), checks=(check,))
    facts: dict[str, Any] = {
        "ran": "",
        "streams": ("", ""),
        "found": Found(runs=[run]),
        "commit": ("c" * 40, False),
        "timed": [],
    }
    monkeypatch.setattr(nightly, "_ran", lambda *_: facts["ran"])
    monkeypatch.setattr(nightly, "_streams", lambda: facts["streams"])
    monkeypatch.setattr(nightly, "_reported", lambda *_: str(_[1]))
    monkeypatch.setattr(nightly, "compared", lambda *_: facts["found"])
    monkeypatch.setattr(provenance, "checkout", lambda _: facts["commit"])
    monkeypatch.setattr(paired, "compare", lambda *given, **_: facts["timed"].append(given[1]) or _timed(given[1]))
    return facts


def _timed(commit: str) -> Any:
    from harness.analysis.slowdown import Gate, TimedComparison, TimedPart

    part = TimedPart(
        pipeline="tofc", part="device/merge", pairs=20, reference_s=0.02, candidate_s=0.03, ratio=1.5, low=1.4,
        high=1.6, minimum_effect=0.1, p=1e-6, verdict="slower", confirmed_p=1e-5, confirmed_ratio=1.5,
    )  # fmt: skip
    return TimedComparison(
        scenario="smoke", reference=commit, candidate="b", machine="m", gate=Gate(),
        design={"pairs": 20, "turns": 6, "pictures": 3, "warmup": 1, "seed": 0}, parts=(part,), notes=(),
    )  # fmt: skip


def go(against: str = "") -> int:
    """A night of one scenario."""
    with Path("log").open("a") as log:
        return nightly.night([Path("scenarios/smoke.yaml")], against, nightly.TIMED, 20, Console(file=log))


@pytest.mark.slow
def test_a_night_adds_to_the_history_and_the_next_is_timed_against_it(night: dict[str, Any]) -> None:
    """The first has no commit to time against; the second takes that of the first, and fails where it is slower."""
    assert go() == 0
    night["commit"] = ("d" * 40, False)
    assert go() == 1
    assert night["timed"] == ["c" * 40]
    nights = nightly.history(Path("results/history"))
    assert [one["commit"][0] for one in nights] == ["c", "d"]
    assert nights[1]["verdict"] == "REGRESSION: smoke (tofc device/merge)"
    assert "slower" in Path("results/nightly/dddddddddddd/nightly.md").read_text()
    nightly.drawn(nights, Path("history.svg"))
    assert Path("history.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_a_night_that_cannot_compare_or_time_is_still_written(
    night: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absent commit and absent runs are reported in the night's files, with status 2."""

    def lost(*_: object, **__: object) -> Any:
        raise ResultsError("no such commit or tag")

    monkeypatch.setattr(paired, "compare", lost)
    assert go("v0.1") == 2
    assert "times: no such commit or tag" in Path("results/nightly/cccccccccccc/nightly.md").read_text()
    monkeypatch.setattr(nightly, "compared", lost)
    assert go() == 2
    assert len(nightly.history(Path("results/history"))) >= 1


def test_a_named_commit_is_timed_and_the_same_is_not(night: dict[str, Any]) -> None:
    """``AGAINST`` comes before the history; a commit is not timed against itself."""
    go()
    go()
    assert night["timed"] == []
    go("v0.1")
    assert night["timed"] == ["v0.1"]


@pytest.mark.parametrize(("what", "found"), [("ran", "smoke: could not be run"), ("streams", ("", "no such codec"))])
def test_what_could_not_be_run_is_2(night: dict[str, Any], what: str, found: Any) -> None:
    """A scenario that failed, or streams that could not be read, are in the history as not comparable."""
    night[what] = found
    assert go() == 2
    assert nightly.history(Path("results/history"))[0]["verdict"].startswith("NOT COMPARABLE: 1 of 2")


def test_a_file_that_is_no_night_is_named(tmp_path: Path) -> None:
    """One sentence names its path."""
    (tmp_path / "x.json").write_text(json.dumps({"date": "today"}))
    with pytest.raises(ResultsError, match=r"x.json: is not the result of a nightly"):
        nightly.history(tmp_path)


def test_a_night_that_failed_fails_again_when_it_is_repeated(night: dict[str, Any]) -> None:
    """It is timed against the same commit as before, not passed over as its own last night; so is one of changes."""
    go()
    night["commit"] = ("d" * 40, False)
    assert [go(), go()] == [1, 1]
    assert night["timed"] == ["c" * 40] * 2
    night["commit"] = ("d" * 40, True)
    assert go() == 1
    assert night["timed"][-1] == "d" * 40


def test_streams_that_decode_otherwise_are_a_regression(night: dict[str, Any]) -> None:
    """The status is 1, and the verdict, the night's file and the history name them."""
    night["streams"] = ("2 of 300 streams decode otherwise", "")
    assert go() == 1
    assert nightly.history(Path("results/history"))[0]["verdict"] == "REGRESSION: recorded streams"
    assert "- 2 of 300 streams decode otherwise" in Path("results/nightly/cccccccccccc/nightly.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "differs", "unread"),
    [
        ("print('all equal')", "", ""),
        ("print('1 of 2 differ'); sys.exit(1)", "recorded streams do not decode equal: 1 of 2 differ", ""),
        ("sys.exit('lacks a key')", "", "recorded streams could not be decoded: lacks a key"),
        ("1 / 0", "", "ZeroDivisionError"),
        ("print('half', file=sys.stderr); sys.exit(2)", "", "recorded streams could not be decoded: half"),
        ("import os; os._exit(9)", "", "could not be decoded: status 9"),
    ],
)
def test_streams_that_differ_are_distinguished_from_a_tool_that_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, differs: str, unread: str
) -> None:
    """Differences are on standard output with status 1; errors of the tool are on standard error."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "portability.py").write_text(f"import sys\n{program}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    found = nightly._streams()
    for said, wanted in zip(found, (differs, unread), strict=True):
        assert wanted in said
        assert bool(said) == bool(wanted)


def test_a_stage_without_a_finite_ratio_is_drawn_at_the_top(night: dict[str, Any]) -> None:
    """A stage that only one commit has is infinitely slower, for which JSON has no number."""
    found = _timed("c" * 40)
    endless = dataclasses.replace(found.parts[0], ratio=math.inf, low=math.inf, high=math.inf, confirmed_ratio=math.inf)
    with pytest.MonkeyPatch.context() as patch:
        parts = (endless, *found.parts)
        patch.setattr(paired, "compare", lambda *_, **__: dataclasses.replace(found, parts=parts))
        assert go("v0.1") == 1
    nights = nightly.history(Path("results/history"))
    assert [part["ratio"] for part in nights[0]["timed"][0]["parts"]] == [None, 1.5]
    nightly.drawn(nights, Path("history.svg"))
    assert Path("history.svg").read_text().startswith("<?xml")
