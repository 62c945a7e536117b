"""A run's folder: what is written and read, what is resumed, and what is not touched."""

import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from harness.channel.recording import RateRecording, save
from harness.errors import ResultsError
from harness.reference import as_reference
from harness.runs import disk
from harness.runs.provenance import Manifest
from harness.runs.store import MEASURED, Run, Unit
from harness.runs.tables import ROWS
from tests.made_up_run import small
from tests.study_rows import Work, same_rows, samples, units, work, work_on

KINDS = tuple(ROWS)
WORKED = ("stages", "outcomes", "requests")
Made = Callable[..., Manifest]


@pytest.mark.slow
def test_reads_what_was_added(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """Every row that was added is read, sorted by its keys, and only the tables and the manifest remain."""
    folder = tmp_path / "runs" / "tonight"
    work(folder, manifest(), study_units)
    run = Run.read(folder)
    assert [getattr(run, kind).num_rows for kind in ("samples", *WORKED)] == [3, 12, 6, 6]
    assert run.outcomes["pipeline"].to_pylist() == ["jpeg"] * 3 + ["webp"] * 3
    assert run.stages["stage"].to_pylist()[:3] == ["preprocess", "encode", "decode"], "the order in which they happened"
    assert (run.manifest.status, run.manifest.validity) == ("complete", "VALID")
    assert {path.name for path in folder.iterdir()} == {"manifest.json", *(f"{kind}.parquet" for kind in KINDS)}
    assert set(run.manifest.tables) == set(KINDS)
    assert [path.name for path in folder.parent.iterdir()] == ["tonight"], "neither lock nor leftovers"


@pytest.mark.slow
def test_order_of_work_does_not_matter(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """The consolidated files are the same, byte for byte, whatever the order in which the units were worked."""
    work(tmp_path / "a", manifest(), study_units)
    work(tmp_path / "b", manifest(), random.Random(5).sample(study_units, len(study_units)))
    for kind in KINDS:
        assert (tmp_path / "a" / f"{kind}.parquet").read_bytes() == (tmp_path / "b" / f"{kind}.parquet").read_bytes()


@pytest.mark.slow
def test_resumes_an_unfinished_run(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """An interrupted run is resumed with the missing units, and both sessions are recorded."""
    folder = tmp_path / "tonight"
    with Run.open_or_create(folder, manifest()) as run:
        work_on(run, study_units[:4])
        assert run.start == 0
        assert run.table("outcomes").num_rows == 4
    elsewhere = {"id": "89abcdef", "name": "another processor", "cores": 64}
    assert work(folder, manifest(machine=elsewhere), study_units) == [unit.name for unit, *_ in study_units[4:]]
    assert Run.read(folder).manifest.machines == ("a processor, 2 cores", "another processor")
    work(tmp_path / "whole", manifest(), study_units)
    assert same_rows(Run.read(folder), Run.read(tmp_path / "whole"))


def test_sessions_of_which_nothing_came_are_not_kept(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """As that of a replay which was stopped before it had the rows: its machines are those of another run."""
    folder = tmp_path / "tonight"
    elsewhere = {"id": "89abcdef", "name": "another processor", "cores": 64}
    Run.open_or_create(folder, manifest(machine=elsewhere)).close()
    with Run.open_or_create(folder, manifest()) as run:
        work_on(run, study_units[:1])
        assert run.start == 0
    with Run.open_or_create(folder, manifest()) as run:
        assert (run.start, run.manifest.machines) == (1, ("a processor, 2 cores",))


def test_nothing_is_measured_into_a_reference_run(tmp_path: Path) -> None:
    """Its rows are of a commit, and its requests are left out."""
    folder = tmp_path / "tonight"
    record = small(tmp_path / "made" / "tonight")
    disk.write_folder(folder, as_reference(record, tmp_path))
    begun: dict[str, object] = {
        "status": "running",
        "validity": None,
        "reasons": (),
        "finished_utc": None,
        "tables": {},
    }
    with pytest.raises(ResultsError, match="holds a reference run, which 'harness reference update' remakes; choose"):
        Run.open_or_create(folder, Run.read_manifest(folder).model_copy(update=begun))


@pytest.mark.slow
def test_what_a_unit_depends_on_decides_whether_it_is_worked_again(tmp_path: Path, manifest: Made) -> None:
    """After one codec's file changed its pipeline's units are worked again, and the replay; the other's are not."""
    folder = tmp_path / "tonight"
    first = list(units(depends={"webp": "1" * 16, "jpeg": "2" * 16}))
    assert len(work(folder, manifest(), first)) == len(first)
    second = list(units(depends={"webp": "3" * 16, "jpeg": "2" * 16}))
    worked = work(folder, manifest(digests={"codec": "3" * 16}), second)
    assert worked == [unit.name for unit, *_ in second if "jpeg" not in unit.name]
    work(tmp_path / "whole", manifest(), second)
    assert same_rows(Run.read(folder), Run.read(tmp_path / "whole")), "no row of the old codec is in the tables"
    back = work(folder, manifest(), first)
    assert back == ["replay 25 KB/s"], "rows that were not wanted for a while are there again, replays are not"
    work(tmp_path / "before", manifest(), first)
    assert same_rows(Run.read(folder), Run.read(tmp_path / "before"))


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [False, True], ids=["complete", "unfinished"])
def test_an_edited_scenario_measures_only_what_is_new(tmp_path: Path, manifest: Made, interrupted: bool) -> None:
    """A pipeline more, or one less, and back: rows of units that are still wanted, or wanted again, are not lost."""
    folder = tmp_path / "tonight"
    one, both = list(units(("webp",))), list(units(("webp", "jpeg")))
    if interrupted:
        with Run.open_or_create(folder, manifest()) as run:
            work_on(run, one)
    else:
        work(folder, manifest(), one)
    measured = [unit.name for unit, *_ in both if "jpeg" in unit.name]
    assert [name for name in work(folder, manifest(scenario_hash="b"), both) if "replay" not in name] == measured
    whole = Run.read(folder)
    assert set(whole.outcomes["pipeline"].to_pylist()) == {"webp", "jpeg"}
    fewer = [name for name in work(folder, manifest(scenario_hash="c"), one) if "replay" not in name]
    assert fewer == []
    assert set(Run.read(folder).outcomes["pipeline"].to_pylist()) == {"webp"}
    again = [name for name in work(folder, manifest(scenario_hash="b"), both) if "replay" not in name]
    assert again == []
    assert all(getattr(Run.read(folder), kind).equals(getattr(whole, kind)) for kind in MEASURED)


@pytest.mark.slow
def test_does_not_mix_runs(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """A folder of another scenario, or of other code or packages, is not changed, and the error says what to do."""
    folder = tmp_path / "tonight"
    work(folder, manifest(), study_units)
    with pytest.raises(ResultsError, match=r"the scenario 'study', and this one is 'other'; choose another name"):
        Run.open_or_create(folder, manifest(scenario={"name": "other"}))
    session = manifest().sessions[0]
    for change, said in (
        ({"code": "0" * 16}, "the harness's own code changed"),
        ({"packages": {**session.packages, "numpy": "0.1"}}, r"numpy \(.* before, 0\.1 now\) changed"),
    ):
        other = manifest().model_copy(update={"sessions": (session.model_copy(update=change),)})
        with pytest.raises(ResultsError, match=f"rows of two versions are not mixed: {said}; .* --fresh"):
            Run.open_or_create(folder, other)
    assert Run.read(folder).outcomes.num_rows == 6, "the run is unchanged"


@pytest.mark.slow
def test_fresh_discards_a_run_and_nothing_else(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """``fresh`` begins again where a run was, complete or damaged, and refuses a folder that is not a run."""
    folder = tmp_path / "tonight"
    work(folder, manifest(), study_units)
    assert len(work(folder, manifest(scenario_hash="zzz"), study_units, fresh=True)) == len(study_units)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ResultsError, match="is not JSON"):
        Run.open_or_create(folder, manifest())
    assert work(folder, manifest(), study_units[:1], fresh=True) == [study_units[0][0].name]
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "dear.txt").write_text("dear")
    with pytest.raises(ResultsError, match=r"holds 'dear.txt' and no manifest.json"):
        Run.open_or_create(letters, manifest(), fresh=True)
    assert (letters / "dear.txt").read_text() == "dear"


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, True])
def test_a_link_to_a_run_is_not_written_through(
    tmp_path: Path, manifest: Made, study_units: list[Work], fresh: bool
) -> None:
    """Neither the link nor its target is changed, dangling or not; the sentence says what to name instead."""
    folder, link = tmp_path / "tonight", tmp_path / "link"
    work(folder, manifest(), study_units)
    for target in (folder, tmp_path / "nowhere"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with pytest.raises(ResultsError, match="is a symbolic link; give the folder that it points to"):
            Run.open_or_create(link, manifest(), fresh=fresh)
        assert link.is_symlink()
    assert Run.read(folder).outcomes.num_rows == 6
    assert {path.name for path in tmp_path.iterdir()} == {"tonight", "link"}, "no lock is left either"


def test_a_unit_is_committed_once(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """A unit is added once, and a request that two units hold is refused rather than counted twice."""
    unit, _, outcomes, _ = study_units[0]
    with Run.open_or_create(tmp_path / "tonight", manifest()) as run:
        run.add(unit, outcomes=outcomes)
        with pytest.raises(ValueError, match="is done"):
            run.add(unit, outcomes=outcomes)
        other = Unit("the same under another name")
        run.add(other, outcomes=[dataclasses.replace(outcomes[0], unit=other.key)])
        with pytest.raises(ResultsError, match="sample s000 are in two units"):
            run.finish()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["../escape", "a/b", ".hidden", "..", "100 % é", "quality=10,merge=0.044", "n" * 5000, "\u0000"]
)
def test_any_name_is_a_unit(tmp_path: Path, manifest: Made, study_units: list[Work], name: str) -> None:
    """A unit's name may have characters that a path may not, at any length; it is recognised after a restart."""
    folder, unit = tmp_path / "tonight", Unit(name, {"file " + name: "0" * 16})
    row = dataclasses.replace(study_units[0][2][0], unit=unit.key)
    with Run.open_or_create(folder, manifest()) as run:
        assert run.expect([unit]) == [unit]
        run.add(unit, outcomes=[row])
    with Run.open_or_create(folder, manifest()) as run:
        assert run.expect([unit]) == []
        assert run.table("outcomes").num_rows == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tonight"]


def test_refuses_rows_that_break_the_schema(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """What could not be read back is refused when it is added, and nothing of its unit is committed."""
    table = pa.Table.from_pylist([{"pipeline": "jpeg"}])
    good = study_units[6][1]
    broken = [{**{f: getattr(good[0], f) for f in type(good[0]).__dataclass_fields__}, "seconds": float("nan")}]
    unit = Unit("a")
    with Run.open_or_create(tmp_path / "tonight", manifest()) as run:
        with pytest.raises(ResultsError, match="the column 'run' is missing"):
            run.add(unit, outcomes=table)
        with pytest.raises(ResultsError, match="seconds is nan in row 0; it must be a finite number"):
            run.add(unit, outcomes=study_units[0][2], stages=pa.Table.from_pylist(broken))
        assert run.expect([unit]) == [unit]
        assert run.table("outcomes").num_rows == 0
        with pytest.raises(ResultsError, match="sample 's000' is there twice"):
            run.record_samples([*samples(), *samples(1)])


def test_refuses_what_is_not_a_finished_run(tmp_path: Path, manifest: Made) -> None:
    """An absent folder, a file in its place, and an ongoing run are each named as such."""
    with pytest.raises(ResultsError, match="no such folder"):
        Run.read(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match="is a file"):
        Run.open_or_create(tmp_path / "file", manifest())
    Run.open_or_create(tmp_path / "tonight", manifest()).close()
    with pytest.raises(ResultsError, match="is unfinished"):
        Run.read(tmp_path / "tonight")


def test_reasons_make_a_run_invalid(tmp_path: Path, manifest: Made) -> None:
    """The samples of an ongoing run are read with it; the reasons at its end are in its manifest."""
    folder = tmp_path / "tonight"
    with Run.open_or_create(folder, manifest()) as run:
        run.record_samples(samples())
        assert run.so_far().samples.to_pylist() == [
            {name: getattr(row, name) for name in row.__slots__} for row in samples()
        ]
        run.finish(["too few questions"])
    assert (Run.read(folder).manifest.validity, Run.read(folder).manifest.reasons) == (
        "INVALID",
        ("too few questions",),
    )
    assert json.loads((folder / "manifest.json").read_text())["reasons"] == ["too few questions"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the threads of a process")
def test_reading_a_run_starts_no_thread(tmp_path: Path, manifest: Made, study_units: list[Work]) -> None:
    """One of Arrow's that still holds the bytes when the process ends aborts it; a recorded link is read likewise."""
    work(tmp_path / "run", manifest(), study_units)
    link = RateRecording(at_s=np.array([0.0, 5.0]), rate_bps=np.array([1e6]), source="made up")
    save(link, tmp_path / "link.parquet")
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from harness.channel.recording import load\n"
        "from harness.runs.store import Run\n"
        "def threads():\n"
        "    tasks = Path('/proc/self/task')\n"
        "    names = [(tasks / task / 'comm').read_text().strip() for task in os.listdir(tasks)]\n"
        "    return len([name for name in names if not name.startswith('jemalloc')])  # The allocator's frees memory.\n"
        "before = threads()\n"
        "Run.read(Path(sys.argv[1]) / 'run')\n"
        "load(Path(sys.argv[1]) / 'link.parquet')\n"
        "print(threads() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
