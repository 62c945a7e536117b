"""The parts of an unfinished run: folders of a table for each kind of rows, and of the units that these come from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from harness import files
from harness.errors import ResultsError
from harness.runs import disk, tables
from harness.runs.digests import of_bytes
from harness.runs.tables import Kind

FOLDER, _UNITS = "parts", "units.json"
_SHOWN_UNITS = 3


Facts: TypeAlias = dict[str, dict[str, str]]
"""Of a part: the names of its ``units`` by their keys, and the digests of its ``tables``."""


def write(part: Path, units: Mapping[str, str], rows: Mapping[Kind, pa.Table]) -> Facts:
    """Writes the folder of a part, complete or not at all; ``units`` are names by their keys."""
    data = {f"{kind}.parquet": disk.parquet(table) for kind, table in rows.items()}
    facts: Facts = {"units": dict(units), "tables": {kind: of_bytes(data[f"{kind}.parquet"]) for kind in rows}}
    disk.write_folder(part, {**data, _UNITS: json.dumps(facts, indent=1).encode()})
    return facts


def read(kind: Kind, part: Path, facts: Facts) -> pa.Table:
    """The rows of a kind in a part; raises ResultsError for a damaged table."""
    try:
        return tables.read(kind, part / f"{kind}.parquet", facts["tables"].get(kind))
    except ResultsError as error:
        raise ResultsError(f"{error}; {_work_again(part, facts)}") from None


def facts_of(run: Path) -> dict[Path, Facts]:
    """What each part of an unfinished run holds; raises ResultsError for a damaged one."""
    held = (run / FOLDER).iterdir() if (run / FOLDER).is_dir() else ()
    return {part: read_facts(part) for part in sorted(held) if not part.name.startswith(files.UNFINISHED)}


def read_facts(part: Path) -> Facts:
    """What a part holds; raises ResultsError unless each table is as it was written."""
    try:
        facts: Facts = json.loads((part / _UNITS).read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or not all(isinstance(facts.get(name), dict) for name in ("units", "tables")):
            raise ValueError("it lacks 'units' or 'tables'")
    except (OSError, ValueError) as error:
        why = files.why(error) if isinstance(error, OSError) else error
        raise ResultsError(
            f"{part / _UNITS}: cannot be read: {why}; remove {part}, and its units are computed again"
        ) from None
    for kind, digest in facts["tables"].items():
        path = part / f"{kind}.parquet"
        try:
            found = of_bytes(path.read_bytes())
        except OSError as error:
            raise ResultsError(f"{path}: cannot be read: {files.why(error)}; {_work_again(part, facts)}") from None
        if found != digest:
            raise ResultsError(
                f"{path}: is damaged or was edited: its digest is {found}, and the run wrote {digest}; "
                f"{_work_again(part, facts)}"
            )
    return facts


def _work_again(part: Path, facts: Facts) -> str:
    """What to do about a damaged part: how many units are lost with it, and the first of them."""
    names = list(facts["units"].values())
    more = ", ..." if len(names) > _SHOWN_UNITS else ""
    return (
        f"remove the folder {part}, and its {len(names)} unit{'s are' if len(names) != 1 else ' is'} computed again: "
        f"{', '.join(dict.fromkeys(names[:_SHOWN_UNITS]))}{more}"
    )
