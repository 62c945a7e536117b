"""The nightly: runs the scenarios that have a reference, compares, and keeps a history.

    python -m tools.nightly run [--against COMMIT] [--timed SCENARIO] [SCENARIO ...]
    python -m tools.nightly draw [--out FILE]

``run`` runs each scenario anew (or completes it: a night that was stopped is resumed), compares its rows with
``results/reference/``, decodes the streams that another machine coded, times this commit against the last other one
in the history (or ``--against`` any), and writes ``nightly.md``, ``nightly.json`` and ``report.html`` into
``results/nightly/COMMIT/``, and a file into ``results/history/``. The status is that of ``harness compare``: 0, 1 for a
regression, 2 where something could not be run or compared. ``draw`` shows the history.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from harness import files, paired, reference
from harness.analysis import regression
from harness.analysis.slowdown import Gate
from harness.cli.compare import compared
from harness.cli.display import Display, terminal
from harness.errors import HarnessError, ResultsError
from harness.profiling.machine import machine_name
from harness.report import regressions
from harness.report.regressions import Found
from harness.runs import provenance
from harness.runs.digests import of_code

ROOT = Path(__file__).parents[1]
RESULTS = Path("results")
GOLDEN = Path("tests/tools/golden")
TIMED = Path("scenarios/smoke.yaml")
_MOST_LABELS = 8
_MOST_SAID = 300


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a night, or draws them all; returns the status."""
    parser = argparse.ArgumentParser(prog="python -m tools.nightly", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run, compare, report, and add to the history")
    run.add_argument("scenarios", nargs="*", type=Path, help="the scenarios to run; default: those with a reference")
    run.add_argument(
        "--against", metavar="COMMIT", default="", help="the commit to time against; default: the last other one"
    )
    run.add_argument(
        "--timed", metavar="SCENARIO", type=Path, default=TIMED, help="the scenario to time; default: %(default)s"
    )
    run.add_argument("--pairs", type=int, default=20, help="restarted pairs in a set; default: %(default)s")
    draw = commands.add_parser("draw", help="draw the history")
    draw.add_argument("--out", type=Path, default=RESULTS / "history.svg", help="default: %(default)s")
    asked = parser.parse_args(arguments)
    console = terminal()
    try:
        if asked.command == "draw":
            drawn(history(RESULTS / "history"), asked.out)
            console.print(f"{asked.out}")
            return 0
        return night(asked.scenarios, asked.against, asked.timed, asked.pairs, console)
    except HarnessError as error:
        print(f"nightly: {error}", file=sys.stderr)
        return 2


def night(scenarios: Sequence[Path], against: str, timed: Path, pairs: int, console: Console) -> int:
    """One night; returns its status."""
    kept = RESULTS / "reference"
    wanted = list(scenarios) or [Path("scenarios") / f"{name}.yaml" for name in reference.names(kept)]
    commit, dirty = provenance.checkout(ROOT)
    name = commit[:12] if commit is not None and not dirty else f"changes-{of_code()}"
    folder = RESULTS / "nightly" / name
    runs = folder / "runs"
    refused = [sentence for file in wanted if (sentence := _ran(file, runs, console))]
    # What cannot be compared or timed is reported in the night's result and does not end it.
    try:
        found = compared(kept, runs, dict(regression.DEFAULT), regression.BYTES_TOLERANCE, Path("scenarios"))
    except HarnessError as error:
        found = Found()
        refused.append(str(error))
    streams, why_unread = _streams()
    if why_unread:
        refused.append(why_unread)
    notes = [*found.notes]
    times = []
    last = against or _last_commit(history(RESULTS / "history"), other_than=None if dirty else commit)
    if not last:
        notes.append("times: the history has no night of another commit; name one with --against")
    else:
        design = paired.Design(pairs=pairs)
        try:
            with Display(console) as display:
                timed_now = paired.compare(timed, last, RESULTS / "timed", design=design, gate=Gate(), reporter=display)
            times.append(timed_now)
        except HarnessError as error:
            refused.append(f"times: {error}")
    others = {"recorded streams": streams} if streams else {}
    found = Found(runs=found.runs, others=others, refused=[*refused, *found.refused], timed=times, notes=notes)
    console.print(regressions.terminal(found))
    _write(folder / "nightly.md", regressions.markdown(found))
    _write(folder / "nightly.json", regressions.text(found, "json"))
    if sentence := _reported(sorted(path.parent for path in runs.glob("*/manifest.json")), folder / "report.html"):
        console.print(sentence)
    date = provenance.utc_now()
    facts = {"date": date, "commit": commit, "dirty": dirty, "machine": machine_name(), **regressions.as_json(found)}
    kept_as = RESULTS / "history" / f"{date[:19].replace(':', '')}-{name}.json"
    _write(kept_as, json.dumps(facts, indent=1) + "\n")
    console.print(f"{folder / 'nightly.md'}\n{kept_as}")
    return int(found.code)


def _ran(file: Path, runs: Path, console: Console) -> str:
    """Runs a scenario; returns why it could not be run, or nothing."""
    console.print(f"{file}")
    command = [sys.executable, "-m", "harness", "run", str(file), "--results", str(runs)]
    if subprocess.run(command, check=False).returncode:
        return f"{file}: could not be run; see above"
    return ""


def _streams() -> tuple[str, str]:
    """Decodes the streams that a machine of another kind coded; returns what differs, and why they could not be read.

    Both are empty where all decode equal.
    """
    command = [sys.executable, "-m", "tools.portability", "decode", str(GOLDEN)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = " ".join(done.stdout.split())[-_MOST_SAID:]
    # What differs is printed when all is decoded. A crash ends with 1 too, and prints nothing there.
    if done.returncode == 1 and said:
        return f"{GOLDEN}: recorded streams do not decode equal: {said}", ""
    if done.returncode:
        why = " ".join(done.stderr.split())[-_MOST_SAID:] or f"status {done.returncode}"
        return "", f"{GOLDEN}: recorded streams could not be decoded: {why}"
    return "", ""


def _reported(runs: Sequence[Path], out: Path) -> str:
    """Writes the report of all runs; returns why it could not be written, or where it is."""
    command = [sys.executable, "-m", "harness", "report", *map(str, runs), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return str(out) if done.returncode == 0 else f"no report: {' '.join(done.stderr.split())[-_MOST_SAID:]}"


def _write(path: Path, text: str) -> None:
    files.write_whole(path, lambda file: file.write(text.encode()))


def history(folder: Path) -> list[dict[str, Any]]:
    """Every night in a folder, oldest first; raises ResultsError for a file that is none."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            found.append({name: facts[name] for name in ("date", "commit", "dirty", "verdict", "runs", "timed")})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{path}: is not the result of a nightly: {error!r}; remove it") from None
    return found


def _last_commit(nights: Sequence[Mapping[str, Any]], other_than: str | None) -> str:
    """The commit of the last night that was of another commit; empty where there is none.

    A night that is repeated is thus timed against what it was timed against before, and fails where it failed.
    """
    commits = [str(one["commit"]) for one in nights if one["commit"] and not one["dirty"]]
    return next((commit for commit in reversed(commits) if commit != other_than), "")


def drawn(nights: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Draws the nights: how many rows differ, and each stage's ratio to the night before, with its interval."""
    import matplotlib.pyplot as plt

    if not nights:
        raise ResultsError(f"{RESULTS / 'history'}: holds no result of a nightly; 'make nightly' adds one")
    figure, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(7, 4.2), layout="constrained")
    place = range(len(nights))
    below = [0] * len(nights)
    for quantity in regression.QUANTITIES:
        n = [
            sum(c["differing"] for run in one["runs"] for c in run["checks"] if c["quantity"] == quantity)
            for one in nights
        ]
        if any(n):
            top.bar(place, n, bottom=below, label=quantity)
            below = [b + more for b, more in zip(below, n, strict=True)]
    top.set_ylabel("rows that differ")
    top.set_title("Nightly: differences from the reference, and times against the night before", fontsize=10)
    if any(below):
        top.legend(fontsize=7, ncols=3)
    for at, one in enumerate(nights):
        for timed in one["timed"]:
            for part in timed["parts"]:
                slower = part["verdict"] == "slower"
                look = {"color": "#c1272d" if slower else "#7a7a7a", "marker": "^" if slower else ".", "linewidth": 0.6}
                if part["ratio"] is None:  # Only this commit has the stage: its ratio is infinite, and at the top edge.
                    bottom.plot(at, 1.0, clip_on=False, transform=bottom.get_xaxis_transform(), **look)
                    continue
                low, high = (part[end] if part[end] is not None else part["ratio"] for end in ("low", "high"))
                bottom.errorbar(at, part["ratio"], [[part["ratio"] - low], [high - part["ratio"]]], **look)
            bottom.plot([at - 0.4, at + 0.4], [1 + timed["gate"]["minimum_effect"]] * 2, "k--", linewidth=0.8)
    bottom.axhline(1, color="k", linewidth=0.5)
    bottom.set_ylabel("time, ratio")
    step = -(-len(nights) // _MOST_LABELS)
    words = [f"{one['date'][:10]}\n{(one['commit'] or '?')[:7]}" for one in nights[::step]]
    bottom.set_xticks(list(place)[::step], words, fontsize=7)
    top.yaxis.get_major_locator().set_params(integer=True)
    files.write_whole(out, lambda file: figure.savefig(file, format=out.suffix.lstrip(".") or "svg"))
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
