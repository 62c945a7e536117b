"""Writes ``results/README.md``: the tables in the folder of a run, column by column, from ``harness/records.py``.

python -m tools.columns
"""

import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path

from harness.cli import guarded
from harness.records import SCHEMA_VERSION
from harness.runs.store import MEASURED
from harness.runs.tables import KEYS, ROWS

README = Path(__file__).parents[1] / "results" / "README.md"

UNITS = {
    "_s": "s", "_j": "J", "_w": "W", "_bytes": "bytes", "_bps": "bit/s", "_px": "px", "seconds": "s", "load": "0 to 1",
}  # fmt: skip
"""How a column's name ends, and its unit; a name that ends otherwise has none, or is a count."""

_OTHERWISE = {"paced": "Stages of requests that came at the study's arrival times, with pauses, not back to back."}
"""Tables whose rows are of the same class as another's: what they hold."""

_TYPES = {str: "text", int: "integer", float: "number", bool: "true or false"}
_HEAD = """# What is in a run's folder

<!-- Made by `python -m tools.columns` from harness/records.py. -->

`harness run` writes `results/runs/NAME/`. The reference runs of the repository are in `results/reference/`;
`harness reference` lists them with the reason for each, `harness reference update --reason "..."` remakes them. A run
is a `manifest.json`, whose fields `harness/runs/provenance.py` describes, and the tables below as Parquet. The schema
version is {version}.

Durations are in seconds, sizes in bytes, rates in bits per second, instants in seconds since the start of their replay.
Tables hold single values, never means. A column is null only where its description says so. `source` says where a
number comes from: measured in this run, recorded earlier, estimated, or reported.

A reference run has `replayed.parquet` instead of `requests.parquet`. Its requests are computed again from its replay
section and the other tables; the digests in `replayed.parquet` show whether they are the same
(`harness/runs/replayed.py`).
"""


def text() -> str:
    """The whole file."""
    return "\n".join([_HEAD.format(version=SCHEMA_VERSION), *(line for kind in ROWS for line in _table(kind))])


def _table(kind: typing.Any) -> Iterator[str]:
    row = ROWS[kind]
    same = next(other for other in ROWS if ROWS[other] is row)
    if same != kind:
        yield f"## {kind}.parquet\n"
        yield f"{_OTHERWISE[kind]} The columns are those of `{same}.parquet`.\n"
        return
    first, _, rest = (inspect.getdoc(row) or "").partition("\n")
    paragraphs = " ".join(rest.split()).replace("``", "`").replace(":class:", "").replace(":data:", "")
    yield f"## {kind}.parquet\n"
    yield f"{first.replace('``', '`').replace(':data:', '')}\n"
    if paragraphs:
        yield f"{textwrap.fill(paragraphs, 120, break_on_hyphens=False)}\n"
    made = "measured" if kind in MEASURED else "replayed from the measured tables" if kind == "requests" else "as asked"
    yield f"Sorted by {', '.join(f'`{key}`' for key in KEYS[kind])}; {made}.\n"
    yield "| column | type | unit |\n|---|---|---|"
    for name, hint in typing.get_type_hints(row).items():
        optional = isinstance(hint, types.UnionType)
        of = next(t for t in typing.get_args(hint) if t is not type(None)) if optional else hint
        unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
        yield f"| `{name}` | {_TYPES[of]}{' or null' if optional else ''} | {unit} |"
    yield ""


def main() -> None:
    """Writes the file."""
    README.write_text(text(), encoding="utf-8")
    print(README)


if __name__ == "__main__":
    guarded(main, "columns")
