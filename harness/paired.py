"""Two commits timed on this machine, in restarted pairs: the timed tier of ``harness compare``.

    commit --git worktree--> folder --PYTHONPATH--> process --turns--> seconds
    this checkout -----------------PYTHONPATH-----> process --turns--> seconds

The two processes of a pair run together and take turns, request by request, in a random order: what slows the machine
for a while slows both. A pair ends with its processes, because times differ between starts of a process. Each finished
pair is a file, so that a comparison that was killed is resumed.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness import files
from harness.analysis import slowdown
from harness.analysis.slowdown import TIMED_COLUMNS, Gate, TimedComparison
from harness.errors import ResultsError, UnavailableError
from harness.reporter import Reporter
from harness.runs import disk, provenance
from harness.runs.digests import of_code, of_data, of_file
from harness.scenario.load import load
from harness.stock import take_stock

ROOT = Path(__file__).parents[1]
_WORKER = Path(__file__).with_name("timing_worker.py")
_FOLDER, _LOCK = "harness-compare-", "lock"
"""How the temporary folder of a commit's files begins, and the file in it that its process has locked."""

_GIT_PATIENCE_S = 300.0
_PATIENCE_S = 1800.0
"""How long a process may take to load, or for one request, before it counts as hung."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """How commits are timed: ``pairs`` a set, in each ``turns`` over so many ``pictures``, after ``warmup`` turns."""

    pairs: int = 20
    turns: int = 12
    pictures: int = 3
    warmup: int = 1
    seed: int = 0


def compare(
    scenario_file: Path, commit: str, folder: Path, *, design: Design, gate: Gate, reporter: Reporter
) -> TimedComparison:
    """Times ``commit`` and this checkout, and judges; finished pairs are in ``folder``, and are not timed again.

    Raises ResultsError for an unknown commit, and if one of the two cannot time the scenario; UnavailableError where
    this is not a git checkout.
    """
    disk.check_folder(folder)
    with checked_out(commit) as (full, tree):
        here = provenance.checkout(ROOT)
        sides = {"reference": tree, "candidate": ROOT}
        # Not their number: a command for more pairs continues from those of an earlier one.
        each = {name: value for name, value in dataclasses.asdict(design).items() if name != "pairs"}
        facts = {**depended_on(scenario_file), "packages": provenance.package_versions(), "design": each}
        own = folder / f"{scenario_file.stem}-{full[:12]}-{of_data({**facts, 'commit': full})}"
        series = Series(scenario_file.resolve(), sides, own, design)
        rows = series.timed("first", reporter, check=lambda first: _refuse_unknown(first, gate))
        parts, notes = slowdown.parts_of(rows, gate.floor_s)
        judged = slowdown.judge(slowdown.log_ratios(parts), gate)
        if slowdown.suspects(judged):
            again = series.timed("second", reporter)
            # The same partition for both sets, so that a stage near the floor belongs to the same part in both.
            both, notes = slowdown.parts_of(
                pd.concat([rows, again.assign(pair=again["pair"] + design.pairs)]), gate.floor_s
            )
            parts, second = both[both["pair"] < design.pairs], both[both["pair"] >= design.pairs]
            judged = slowdown.judge(slowdown.log_ratios(parts), gate, slowdown.log_ratios(second))
        seconds = parts.groupby(["pipeline", "part"])[["reference", "candidate"]].median().to_dict("index")
        return TimedComparison(
            scenario=scenario_file.stem,
            reference=full,
            candidate=f"{here[0]}{'+changes' if here[1] else ''}" if here[0] else f"code {of_code()}",
            machine=series.machine,
            gate=gate,
            design=dataclasses.asdict(design),
            parts=tuple(
                dataclasses.replace(one, reference_s=float(s["reference"]), candidate_s=float(s["candidate"]))
                for one in judged
                for s in [seconds[one.pipeline, one.part]]
            ),
            notes=tuple(notes),
        )


def depended_on(scenario_file: Path) -> dict[str, str]:
    """Digests of what this checkout's times of a scenario depend on: the file, the code, the weights, the questions.

    Raises what :func:`harness.stock.take_stock` does.
    """
    stock = take_stock(load(scenario_file))
    weights = {f"{pipeline} at {label}": named for (pipeline, label), named in stock.depends.items()}
    return {
        "scenario": of_file(scenario_file),
        "code": of_code(),
        "weights": of_data(weights),
        "questions": of_data(stock.sample_digests),
    }


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[tuple[str, Path]]:
    """A commit's full name, and a folder with its files, which is removed afterwards."""
    if provenance.checkout(ROOT)[0] is None:
        raise UnavailableError(f"{ROOT} is not a git checkout, so it cannot be timed against a commit")
    full = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}").strip()
    if not full:
        raise ResultsError(f"--against {commit}: no such commit or tag in {ROOT}; 'git fetch --tags' may fetch it")
    _sweep()
    with (
        _ends_in_order(),
        tempfile.TemporaryDirectory(prefix=_FOLDER) as temporary,
        (Path(temporary) / _LOCK).open("w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        tree = Path(temporary) / "reference"
        try:
            _git("worktree", "prune")
            _git("worktree", "add", "--detach", "--force", str(tree), full, check=True)
            yield full, tree
        finally:
            shutil.rmtree(tree, ignore_errors=True)
            _git("worktree", "prune")


def _sweep() -> None:
    """Removes the folders of commits that processes left that were killed: nobody has their locks."""
    for path in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*/{_LOCK}"):
        with contextlib.suppress(OSError), path.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)


@contextlib.contextmanager
def _ends_in_order() -> Iterator[None]:
    """SIGTERM unwinds the process as Ctrl-C does, for as long as the body runs in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _git(*arguments: str, check: bool = False) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
            timeout=_GIT_PATIENCE_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"git cannot be run: {error}") from None
    if check and done.returncode:
        raise UnavailableError(f"git {arguments[0]}: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout


def _frame(pairs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for pair in pairs for row in pair["rows"]], columns=list(TIMED_COLUMNS))


def _pair_of(path: Path) -> dict[str, Any]:
    """A stored pair; raises ResultsError for a file that is not one, such as a damaged one."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _frame([{"rows": found["rows"]}])
        str(found["machine"])
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {files.why(error)}") from None
    except (ValueError, KeyError, TypeError):
        raise ResultsError(f"{path}: is damaged; remove it, and this pair is timed again") from None
    return found


def _refuse_unknown(rows: pd.DataFrame, gate: Gate) -> None:
    """Refuses a limit on a stage that these rows lack; one that is tested with others is refused at the end."""
    stages = set(slowdown.parts_of(rows, 0.0)[0]["part"])
    slowdown.refuse_unknown(stages | {f"{side}/{slowdown.POOLED}" for side in ("device", "server")}, gate)


class Series:
    """Pairs of one scenario by two checkouts, each pair a file of ``folder``."""

    def __init__(self, scenario_file: Path, sides: Mapping[str, Path], folder: Path, design: Design) -> None:
        self.scenario_file = scenario_file
        self.sides = sides
        self.folder = folder
        self.design = design
        self.machine = ""

    def timed(self, name: str, reporter: Reporter, check: Callable[[pd.DataFrame], None] | None = None) -> pd.DataFrame:
        """The rows of a set of pairs, with :data:`harness.analysis.slowdown.TIMED_COLUMNS`.

        ``check`` gets those of the first pair, before any other is timed.
        """
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"pair-{pair:03}.json" for pair in range(self.design.pairs)]
        reporter.phase(f"{name} set of pairs", total=len(paths), done=sum(path.exists() for path in paths))
        for pair, path in enumerate(paths):
            if not path.exists():
                disk.write_text(path, json.dumps(self.pair(name, pair)))
                reporter.advance()
            if pair == 0 and check is not None:
                check(_frame([_pair_of(path)]))
        read = [_pair_of(path) for path in paths]
        self.machine = read[0]["machine"]
        if len({pair["machine"] for pair in read}) > 1:
            raise ResultsError(f"{folder}: its pairs were timed on two machines; remove it to time them again")
        return _frame(read)

    def pair(self, name: str, pair: int) -> dict[str, Any]:
        """One pair: two processes that are started for it, their turns, and their end."""
        rng = np.random.default_rng([self.design.seed, sum(name.encode()), pair])
        names = list(self.sides)
        rows: list[list[Any]] = []
        with contextlib.ExitStack() as leaving:
            # Both load at once, each starting first in half of the pairs.
            begins = names if pair % 2 else names[::-1]
            workers = {side: leaving.enter_context(_Worker(self, side)) for side in begins}
            told = {side: worker.told() for side, worker in workers.items()}
            self._refuse(told)
            points = {side: [tuple(key) for key in facts["points"]] for side, facts in told.items()}
            every = list(dict.fromkeys(key for keys in points.values() for key in keys))
            leads = _leads(len(every), self.design.warmup + self.design.turns, rng)
            for turn, of_turn in enumerate(leads, -self.design.warmup):
                for place in rng.permutation(len(every)):
                    for side in names if of_turn[place] else names[::-1]:
                        if every[place] in points[side]:
                            timed = workers[side].request(max(turn, 0), *every[place])
                            rows += [[pair, turn, side, *row] for row in timed] if turn >= 0 else []
        return {"machine": told["candidate"]["machine"], "leads": leads.tolist(), "rows": rows}

    def _refuse(self, told: Mapping[str, Mapping[str, Any]]) -> None:
        for side, facts in told.items():
            if Path(facts["package"]).resolve() != self.sides[side].resolve():
                raise ResultsError(
                    f"the {side} ran the code of {facts['package']}, not of {self.sides[side]}: this Python finds an "
                    "installed harness before the one in PYTHONPATH"
                )
        one, other = told.values()
        if one["questions"] != other["questions"]:
            raise ResultsError(
                "the two commits ask different questions of this scenario, so their times are not compared"
            )
        if one["packages"] != other["packages"]:
            raise ResultsError("the two commits ran with different packages, so their times are not compared")


def _leads(points: int, turns: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which side goes first, by turn and point: each in half of a point's turns, in an order drawn for it."""
    return np.array([rng.permutation(np.arange(place, place + turns) % 2 == 0) for place in range(points)]).T


class _Worker:
    """A process that times turns; a context manager, because it must not outlive the pair."""

    def __init__(self, series: Series, side: str) -> None:
        self._side = side
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), str(series.scenario_file), str(series.design.pictures)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=series.sides[side],
            env={**os.environ, "PYTHONPATH": str(series.sides[side])},
        )

    def told(self) -> dict[str, Any]:
        """The process's description of what it times."""
        facts: dict[str, Any] = self._read()
        return facts

    def request(self, turn: int, pipeline: str, point: str) -> list[list[Any]]:
        """The rows of a request: pipeline, point, side, stage, seconds, and those in which it was kept from running."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([turn, pipeline, point]) + "\n")
            self._process.stdin.flush()
        rows: list[list[Any]] = self._read()
        return rows

    def _read(self) -> Any:
        assert self._process.stdout is not None
        # The process writes one line for each request: none is in the buffer, where select would not see it.
        if not select.select([self._process.stdout], [], [], _PATIENCE_S)[0]:
            raise ResultsError(
                f"the {self._side} has not answered for {_PATIENCE_S:g} s, and was ended; repeat the command to resume"
            )
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            raise ResultsError(f"the {self._side} cannot time this scenario: {lines[-1] if lines else 'it was killed'}")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
