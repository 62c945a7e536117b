"""What intervals and tests claim against what they do, on seeded studies whose truth is known.

    python -m benchmarks.bench_calibration [--quick | --studies N] [--only means,ratios,...] [--processes 2]

Each line is a cell: the claim, how often the truth was inside (or a point was admitted) with its Monte Carlo error, the
mean relative width of the interval, and the same of the method that was there before, on the same studies. Of
``lopsided`` the first are of the studies that the run does not warn of, and the second of one scatter about the line,
in all studies.

What is finished is in ``build/calibration.jsonl``: repeat the command to resume. How long all takes is said on standard
error once a hundredth of every cell is made.

    S pictures   R rounds   C pictures of a score   B resamples
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import calibrated_plans, calibrated_rows, calibrated_scores, calibrated_times, resumable
from benchmarks.resumable import Cell
from harness.runs import digests, provenance

SECTIONS: dict[str, Callable[[], Iterator[Cell]]] = {
    "means": calibrated_times.cells_of_means,
    "lopsided": calibrated_times.cells_of_lopsided,
    "ratios": calibrated_times.cells_of_ratios,
    "apart": calibrated_times.cells_of_apart,
    "few": calibrated_times.cells_of_few,
    "percentiles": calibrated_times.cells_of_percentiles,
    "queues": calibrated_times.cells_of_queues,
    "selection": calibrated_scores.cells_of_selection,
    "curves": calibrated_scores.cells_of_curves,
    "stopping": calibrated_times.cells_of_stopping,
    "plan": calibrated_plans.cells_of_plans,
    "energy": calibrated_times.cells_of_energy,
    "scores": calibrated_rows.cells_of_scores,
    "rows": calibrated_rows.cells_of_rows,
    "restarts": calibrated_rows.cells_of_restarts,
    "equal-rows": calibrated_rows.cells_of_equal_rows,
    "stopped-rows": calibrated_rows.cells_of_stopped_rows,
    "users": calibrated_rows.cells_of_users,
}


def cells() -> Iterator[Cell]:
    """All cells, in the order in which they are printed."""
    for of_section in SECTIONS.values():
        yield from of_section()


def digest() -> str:
    """That of all that the counts depend on: the harness's code, this benchmark's, and the packages."""
    here = Path(__file__).parent
    names = (
        "bench_calibration",
        "calibrated_plans",
        "calibrated_rows",
        "calibrated_scores",
        "calibrated_times",
        "made_studies",
        "tally",
    )
    own = [here / f"{name}.py" for name in names]
    return digests.of_data([digests.of_code(), *map(digests.of_file, own), provenance.package_versions()])


def main() -> None:
    """Run the cells and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--quick", action="store_true", help="100 studies a cell instead of 2,000")
    asked.add_argument("--studies", type=int, default=2000, metavar="N", help="how many studies a cell (2000)")
    parser.add_argument("--only", default="", metavar="PARTS", help=", ".join(SECTIONS))
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="how many to use (1)")
    parser.add_argument(
        "--file", type=Path, default=Path(__file__).parents[1] / "build/calibration.jsonl",
        help="where finished pieces are (build/calibration.jsonl); those of other code are not read",
    )  # fmt: skip
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else list(SECTIONS)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        sys.exit(f"--only {unknown[0]}: the parts are {', '.join(SECTIONS)}")
    if arguments.processes < 1:
        sys.exit(f"--processes {arguments.processes}: at least 1 is needed")
    if arguments.studies < 100:
        sys.exit(f"--studies {arguments.studies}: at least 100 are needed")
    studies = 100 if arguments.quick else arguments.studies
    print(
        f"{studies} studies a cell (admission ten times that, queues and max-users a tenth, curves of 765 pictures, "
        "MME and stopped rows a half, p99 and planned bytes a quarter); seeds are fixed",
        flush=True,
    )
    resumable.run(cells, wanted, studies, file=arguments.file, digest=digest(), processes=arguments.processes)


if __name__ == "__main__":
    main()
