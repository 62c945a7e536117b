"""Reference runs: small enough for the repository, and about a kind of machine, not a computer.

    scenario --study.run--> run in a folder of its own --as_reference--> results/reference/<name>/
                                                                         results/reference/history.jsonl

A reference run has the rows and the manifest of its run, with these differences: its requests are left out where its
replay makes them again (``harness/runs/replayed.py``), recorded links are stored beside it, and of each machine only
what decides a number is recorded. Everything that reads runs reads it.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import study
from harness.errors import ResultsError
from harness.files import why
from harness.reporter import Reporter
from harness.runs import disk, provenance, replayed, tables
from harness.runs.digests import of_bytes
from harness.runs.provenance import MANIFEST, Manifest, Session
from harness.runs.store import Record, Run
from harness.scenario.load import load, replay_from_given
from harness.stock import take_stock

HISTORY = "history.jsonl"
_KEPT_OF_A_MACHINE = (
    "name", "model", "processor", "architecture", "cores", "threads", "memory_gib", "accelerators", "power_mode",
    "torch_threads",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Why a reference run was made: a line of the history."""

    scenario: str
    reason: str
    date: str
    commit: str


def update(
    scenario_file: Path, folder: Path, work: Path, *, reason: str, reporter: Reporter, command: Sequence[str]
) -> bool:
    """Runs a scenario and makes the run its reference in ``folder``; returns whether there was anything to do.

    The run itself is made in ``work``, or completed there; a run of other code or packages is made again, and so is one
    that this harness cannot read. Raises ResultsError if what the rows depend on is not committed (a reference names
    its commit), and before anything is run for links that a reference cannot have, a history that cannot be read, or a
    run in ``folder`` that is no reference.
    """
    scenario = load(scenario_file)
    disk.check_folder(folder)
    own, reference = work / scenario.name, folder / scenario.name
    commit = _commit(Path(__file__).parents[1])
    _refuse_links(scenario.replay.files, scenario_file.parent)
    history(folder)
    if (before := _read(reference)) is not None and replayed.REPLAYED not in before.tables:
        raise ResultsError(
            f"{reference}: holds a run that is no reference run, and would be lost; give another --folder"
        )
    fresh = False
    if (own / MANIFEST).exists():
        now = take_stock(scenario).manifest(scenario.name, {"id": "", "name": ""}, ())
        earlier = _read(own)
        fresh = earlier is None or bool(provenance.software_changes(earlier, now))
    study.run(scenario, own, reporter=reporter, fresh=fresh, command=command)
    record = Run.read(own)
    finished = record.manifest.finished_utc or ""
    kept = _read(reference)
    is_made = kept is not None and kept.finished_utc == finished and _is_whole(reference, kept)
    explained = any(one.scenario == scenario.name and one.date >= finished for one in history(folder))
    if is_made and explained:
        return False
    if not is_made:
        content = as_reference(record, scenario_file.parent)
        folder.mkdir(parents=True, exist_ok=True)
        disk.remove_unfinished(folder)
        disk.write_folder(reference, content, replace=True)
    line = Update(scenario=scenario.name, reason=reason, date=provenance.utc_now(), commit=commit)
    disk.write_text(folder / HISTORY, _lines([*history(folder), line]))
    return True


def _read(run: Path) -> Manifest | None:
    """The manifest of a run; None where there is none, or one that this harness cannot read: of an older schema."""
    with contextlib.suppress(ResultsError):
        return provenance.read(run / MANIFEST)
    return None


def _is_whole(run: Path, manifest: Manifest) -> bool:
    """Whether a run's tables are those that its manifest names."""
    paths = {name: run / f"{name}.parquet" for name in manifest.tables}
    return all(path.is_file() and of_bytes(path.read_bytes()) == manifest.tables[name] for name, path in paths.items())


def _refuse_links(files: Iterable[Path], folder: Path) -> None:
    """Raises ResultsError for a recorded link that is not in the scenario's folder."""
    for file in files:
        if not file.resolve().is_relative_to(folder.resolve()):
            raise ResultsError(
                f"{file}: is outside {folder}, and a reference run has its links beside it; copy it there"
            )


def _commit(root: Path) -> str:
    """The commit that a reference run is of; raises ResultsError if its rows could be of another tree.

    What is not in :data:`provenance.REMADE_FROM`, such as the README, may differ.
    """
    commit, _ = provenance.checkout(root)
    if commit is None:
        raise ResultsError("a reference run is of a commit, and this harness is not a git checkout; clone it first")
    differing = provenance.uncommitted(root, provenance.REMADE_FROM)
    if differing is None:
        raise ResultsError("a reference run is of a commit, and git does not say whether this checkout differs from it")
    if differing:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise ResultsError(
            f"a reference run is of a commit, and {differing[0]}{more} differs from it; commit or undo the change first"
        )
    return commit


def as_reference(record: Record, links: Path) -> dict[str, bytes]:
    """The files of the reference that a run makes, by relative name; its links' files count from ``links``."""
    spec = replay_from_given(record.manifest.scenario, links)
    content = {}
    for kind in tables.ROWS:
        if kind != "requests":
            content[f"{kind}.parquet"] = _small(getattr(record, kind))
    _refuse_links(spec.files, links)
    for part in spec.files:
        content[part.relative_to(links).as_posix()] = part.read_bytes()
    content[f"{replayed.REPLAYED}.parquet"] = _small(replayed.digests(record.requests))
    digests = {name.removesuffix(".parquet"): of_bytes(data) for name, data in content.items() if "/" not in name}
    manifest = Manifest.model_validate(
        {
            **dict(record.manifest),
            "tables": {name: digest for name, digest in digests.items() if name in (*tables.ROWS, replayed.REPLAYED)},
            "sessions": tuple(_of_a_kind(session) for session in record.manifest.sessions),
        }
    )
    return {**content, MANIFEST: provenance.to_json(manifest).encode()}


def history(folder: Path) -> list[Update]:
    """Why each reference run was made, oldest first; empty where there is no history.

    Raises ResultsError for a history that cannot be read, and for a line that is not an update.
    """
    path = folder / HISTORY
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {why(error)}") from None
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path}: is not text: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            given = json.loads(line)
            if wrong := [name for name, value in given.items() if not isinstance(value, str)]:
                raise ValueError(f"{wrong[0]} is not text")
            found.append(Update(**given))
        except (ValueError, TypeError, AttributeError) as error:
            raise ResultsError(f"{path}, line {number}: is not an update of a reference run: {error}") from None
    return found


def names(folder: Path) -> list[str]:
    """The names of the reference runs in ``folder``, also of those that this harness cannot read.

    Raises ResultsError where there is none.
    """
    found = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    if not found:
        raise ResultsError(f"{folder}: holds no reference run; 'harness reference update --reason ...' makes them")
    return found


def listed(folder: Path) -> list[tuple[Manifest, Update | None, int]]:
    """Every reference run in ``folder``, with why it was made and its size in bytes."""
    latest = {one.scenario: one for one in history(folder)}
    runs = [folder / name for name in names(folder)]
    return [
        (
            provenance.read(run / MANIFEST),
            latest.get(run.name),
            sum(path.stat().st_size for path in run.rglob("*") if path.is_file()),
        )
        for run in runs
    ]


def _lines(updates: Sequence[Update]) -> str:
    return "".join(json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n" for one in updates)


def _small(table: Any) -> bytes:
    return disk.parquet(table, compression="zstd", compression_level=19)


def _of_a_kind(session: Session) -> Session:
    """A session without what identifies a computer or its folders."""
    server = session.server
    # Only the last part of paths on the command line.
    command = tuple(Path(word).name if word.startswith("/") else word for word in session.command)
    return session.model_copy(
        update={
            "command": command,
            "machine": _kind(session.machine),
            "server": None if server is None else server.model_copy(update={"machine": _kind(server.machine)}),
        }
    )


def _kind(machine: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": "", **{name: machine[name] for name in _KEPT_OF_A_MACHINE if name in machine}}
