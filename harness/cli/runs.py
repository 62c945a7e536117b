"""``harness runs``: the runs in a folder."""

from pathlib import Path
from typing import Annotated

import typer


def runs(
    path: Annotated[Path, typer.Argument(help="A folder of runs.")] = Path("results/runs"),
) -> None:
    """List the runs in a folder: when each was last worked on, whether it is complete and VALID, and what ran.

    The verdict is the one recorded when the run was completed; `harness show` judges a run again. A folder whose
    manifest cannot be read is listed with the reason, and the exit status is then 2.

        harness runs results/runs
    """
    from rich.table import Column

    from harness.cli.display import terminal
    from harness.errors import ResultsError
    from harness.files import no_folder
    from harness.report.fitting import Fitting
    from harness.runs.provenance import MANIFEST, read
    from harness.units import format_bytes

    if not path.is_dir():
        raise ResultsError(
            f"{path}: {no_folder(path)}; a folder of runs is expected, and 'harness run SCENARIO' makes results/runs"
        )
    manifests = sorted(path.rglob(MANIFEST))
    if not manifests:
        raise ResultsError(f"{path}: holds no run; 'harness run SCENARIO' makes one")
    shown = Fitting(Column("run", no_wrap=True), "worked on (UTC)", "state", "what ran", "points", "size")
    damaged = []
    for file in manifests:
        try:
            found = read(file)
        except ResultsError as error:
            damaged.append(str(error))
            continue
        state = found.validity or ("half measured" if found.half else "not complete")
        size = sum(part.stat().st_size for part in file.parent.rglob("*") if part.is_file())
        shown.add_row(
            str(file.parent.relative_to(path)),
            (found.finished_utc or found.sessions[-1].started_utc)[:16].replace("T", " "),
            state,
            ", ".join((*found.benchmarks, found.backbone)),
            str(sum(map(len, found.points.values()))),
            format_bytes(size),
        )
    if shown.row_count:
        terminal().print(shown)
    if damaged:
        raise ResultsError("\n".join(damaged))
