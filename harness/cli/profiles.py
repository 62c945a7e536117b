"""What the replaying commands take from a run: the profiles of its schemes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.replay import Profile


def profiles(path: Path, pipelines: Sequence[str] | None = None) -> "list[Profile]":
    """The profile of every point of a complete run, or of the pipelines named; raises ResultsError for unknown ones."""
    from harness.errors import ResultsError, unknown_name
    from harness.replay import Profile
    from harness.runs.store import Run

    record = Run.read(path)
    rows = record.stages.group_by(["pipeline", "point"], use_threads=False).aggregate([]).to_pylist()
    known = list(dict.fromkeys(row["pipeline"] for row in rows))
    for name in pipelines or ():
        if name not in known:
            raise ResultsError(f"{path}: {unknown_name('pipeline', name, known)}")
    return [
        Profile.from_tables(record.stages, record.outcomes, row["pipeline"], row["point"])
        for row in rows
        if not pipelines or row["pipeline"] in pipelines
    ]
