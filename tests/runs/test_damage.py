"""Damaged runs: what was changed from outside is found and named."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import ResultsError
from harness.records import SCHEMA_VERSION
from harness.runs import disk, tables
from harness.runs.provenance import Manifest
from harness.runs.store import MEASURED, Run, Unit
from harness.runs.tables import ROWS, Kind
from tests.study_rows import Work, work, work_on

KINDS = tuple(ROWS)
Made = Callable[..., Manifest]


def _edit(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def _with(name: str, value: object, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        column = pa.array([value, *table[name].to_pylist()[1:]], kind)
        return table.set_column(table.column_names.index(name), pa.field(name, kind), column)

    return change


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found(tmp_path: Path, manifest: Made, study_units: list[Work], kind: str) -> None:
    """One bit anywhere in a table or a part is refused, naming the file; many of them would be readable."""
    folder, same = tmp_path / "tonight", manifest()
    work(folder, same, study_units)
    path, rng = folder / f"{kind}.parquet", random.Random(3)
    whole = path.read_bytes()
    for place in (rng.randrange(len(whole)) for _ in range(25)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(ResultsError, match="is damaged or was edited") as refusal:
            Run.read(folder)
        assert str(refusal.value).startswith(f"{path}: ")
        if kind in MEASURED:
            with pytest.raises(ResultsError, match="is damaged or was edited"):
                Run.open_or_create(folder, same)
    path.write_bytes(whole)
    assert Run.read(folder).manifest.tables[kind]


def test_a_damaged_part_is_found_when_the_run_is_resumed(tmp_path: Path, manifest: Made) -> None:
    """Before anything is computed; of its units there are the number and the first three."""
    folder = tmp_path / "tonight"
    with Run.open_or_create(folder, manifest()) as run:
        run.add([Unit(f"picture {n}") for n in range(40)])
    (part,) = (folder / "parts").iterdir()
    facts = json.loads((part / "units.json").read_text())
    (part / "outcomes.parquet").write_bytes(b"flipped")
    (part / "units.json").write_text(json.dumps({**facts, "tables": {"outcomes": "0" * 16}}))
    with pytest.raises(ResultsError, match=r"outcomes\.parquet: is damaged or was edited") as refusal:
        Run.open_or_create(folder, manifest())
    assert str(refusal.value).endswith("its 40 units are computed again: picture 0, picture 1, picture 2, ...")
    (part / "outcomes.parquet").unlink()
    with pytest.raises(ResultsError, match=r"outcomes\.parquet: cannot be read: No such file"):
        Run.open_or_create(folder, manifest())


@pytest.mark.parametrize("text", ["[]", "{}", '{"units": {}}', '{"units": [], "tables": {}}'])
def test_a_part_without_its_facts_is_one_sentence(tmp_path: Path, manifest: Made, text: str) -> None:
    """It says what is missing, and what to remove; so of a stray file where parts are."""
    folder = tmp_path / "tonight"
    with Run.open_or_create(folder, manifest()) as run:
        run.add([Unit("picture 0")])
    (part,) = (folder / "parts").iterdir()
    (part / "units.json").write_text(text)
    with pytest.raises(ResultsError, match=r"units\.json: cannot be read: it lacks 'units' or 'tables'; remove "):
        Run.open_or_create(folder, manifest())
    (folder / "parts" / ".stray").write_text("")
    with pytest.raises(ResultsError, match=r"cannot be read: Not a directory: .*; remove .*/\.stray, and its units"):
        Run.open_or_create(folder, manifest())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("outcomes", lambda t: t.drop_columns("truth"), "the column 'truth' is missing"),
        ("stages", lambda t: t.append_column("colour", t["stage"]), "unknown column 'colour'"),
        ("stages", lambda t: t.append_column("stage", t["stage"]), "the column 'stage' is there twice"),
        ("stages", lambda t: _with("stage", None, pa.string())(t), "stage"),
        ("stages", lambda t: _with("seconds", -1.0, pa.float64())(t), "seconds is -1.0 in row 0"),
        ("stages", lambda t: _with("source", "guessed", pa.string())(t), "source is 'guessed' in row 0"),
        ("outcomes", lambda t: _with("payload_bytes", 1.5, pa.float64())(t), "payload_bytes"),
        ("samples", lambda t: _with("sample", "s001", pa.string())(t), "sample 's001' is there twice"),
    ],
)
def test_refuses_a_table_that_is_not_one(
    tmp_path: Path,
    manifest: Made,
    study_units: list[Work],
    kind: Kind,
    change: Callable[[pa.Table], pa.Table],
    sentence: str,
) -> None:
    """Tables with valid digests are still checked."""
    folder = tmp_path / "tonight"
    work(folder, manifest(), study_units)
    _edit(folder / f"{kind}.parquet", change)
    with pytest.raises(ResultsError, match=sentence):
        tables.read(kind, folder / f"{kind}.parquet")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "stages.parquet").unlink(), r"stages\.parquet: no such file"),
        (lambda f: (f / "stages.parquet").write_bytes(b"PAR1 not quite"), r"stages\.parquet: is damaged"),
        (lambda f: os.truncate(f / "outcomes.parquet", 300), r"outcomes\.parquet: is damaged"),
        (
            lambda f: _edit(f / "stages.parquet", _with("seconds", 1e-9, pa.float64())),
            r"stages\.parquet: is damaged or was edited: its digest is .* and the run wrote",
        ),
        (lambda f: (f / "manifest.json").unlink(), r"manifest\.json: no such file"),
        (
            lambda f: (f / "manifest.json").write_text(
                (f / "manifest.json").read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99')
            ),
            "schema_version is 99 and this harness reads",
        ),
    ],
)
def test_refuses_a_damaged_run(
    tmp_path: Path,
    manifest: Made,
    study_units: list[Work],
    damage: Callable[[Path], object],
    sentence: str,
) -> None:
    """Reading a run that was changed from outside says in one sentence which file is wrong, and how."""
    folder = tmp_path / "tonight"
    work(folder, manifest(), study_units)
    damage(folder)
    with pytest.raises(ResultsError, match=sentence) as refusal:
        Run.read(folder)
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_a_damaged_part_is_named(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """A damaged part is not dropped: it is named, with what to do and which units are lost."""
    folder, unit = tmp_path / "tonight", study_units[0][0]
    with Run.open_or_create(folder, manifest()) as run:
        work_on(run, study_units[:2])
        path = folder / "parts" / unit.key / "outcomes.parquet"
        flipped = bytearray(path.read_bytes())
        flipped[len(flipped) // 2] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(ResultsError, match=f"is damaged.*remove the folder .*{unit.key}.* again: {unit.name}$"):
            run.table("outcomes")
    disk.discard(path.parent)
    assert work(folder, manifest(), study_units) == [unit.name, *(w[0].name for w in study_units[2:])]
