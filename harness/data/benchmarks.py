"""The public benchmarks of the paper: where their TSV files come from, and where they are looked for.

The files are VLMEvalKit's. Nothing is downloaded here (:mod:`harness.data.download` does that): what is absent is
reported with the command that downloads it.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.data.pictures import MAX_PIXELS
from harness.data.sample import Sample
from harness.data.tsv import read_tsv
from harness.errors import DataError, UnavailableError, unknown_name
from harness.files import hexdigest, why

PREFIX = "https://opencompass.openxlab.space/utils/"
"""VLMEvalKit's public prefix of the ``url_path`` of every benchmark."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A TSV file of VLMEvalKit: its name, its rows, its md5, and its path under :data:`PREFIX`.

    MMBench repeats each of its questions in several rows, with its options rotated.
    """

    name: str
    questions: int
    md5: str
    url_path: str

    @property
    def url(self) -> str:
        """Where the file is published."""
        return PREFIX + self.url_path


def _benchmark(name: str, questions: int, md5: str, folder: str = "VLMEval") -> Benchmark:
    return Benchmark(name=name, questions=questions, md5=md5, url_path=f"{folder}/{name}.tsv")


BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        _benchmark("RealWorldQA", 765, "4de008f55dc4fd008ca9e15321dc44b7"),
        _benchmark("MME", 2374, "b36b43c3f09801f5d368627fb92187c3"),
        _benchmark("AI2D_TEST", 3088, "0f593e0d1c7df9a3d69bf1f947e71975"),
        _benchmark("MMBench_DEV_EN", 4329, "b6caf1133a01c6bb705cf753bb527ed8", folder="benchmarks/MMBench"),
        _benchmark("MMStar", 1500, "e1ecd2140806c1b1bbf54b43372efb9e"),
        _benchmark("ScienceQA_TEST", 2017, "e42e9e00f9c59a80d8a5db35bc32b71f", folder="benchmarks/ScienceQA"),
        _benchmark("MMMU_DEV_VAL", 1050, "585e8ad75e73f75dcad265dfd0417d64"),
    )
}


def find(name: str) -> Benchmark:
    """The benchmark of this name; raises DataError, listing the known names, for any other."""
    if name not in BENCHMARKS:
        raise DataError(unknown_name("benchmark", name, BENCHMARKS))
    return BENCHMARKS[name]


def folder() -> Path:
    """Where benchmarks are looked for, as VLMEvalKit does: ``$LMUData`` if that folder exists, else ``~/LMUData``."""
    named = os.environ.get("LMUData", "")  # noqa: SIM112 - the name that VLMEvalKit gave it
    return Path(named) if named and Path(named).is_dir() else Path.home() / "LMUData"


def locate(name: str) -> Path:
    """The path that the TSV of a benchmark has, whether it exists or not."""
    return folder() / f"{find(name).name}.tsv"


def load(
    name: str,
    *,
    cache: Path | None = None,  # noqa: ARG001
    max_pixels: int = MAX_PIXELS,
) -> Sequence[Sample]:
    """The samples of a benchmark of the table, read lazily; ``max_pixels`` as in :func:`harness.data.tsv.read_tsv`.

    Raises UnavailableError, saying how to get it, where the file is absent, and DataError where it is damaged.
    """
    return read_tsv(refuse_absent(name), name, max_pixels=max_pixels)


def refuse_absent(name: str) -> Path:
    """The path of a benchmark's TSV; raises UnavailableError, saying how to get it, where it is absent."""
    path = locate(name)
    if not path.exists():
        raise UnavailableError(
            f"{name} is not on this machine: {path} is absent (md5 {BENCHMARKS[name].md5}); 'harness data get {name}' "
            "downloads it"
        )
    return path


def check_md5(benchmark: Benchmark, path: Path) -> None:
    """Reads a benchmark's file from end to end; raises DataError where its md5 is not the published one."""
    try:
        found = hexdigest(path, hashlib.md5(usedforsecurity=False))
    except OSError as error:
        raise UnavailableError(f"{benchmark.name}: {path} cannot be read: {why(error)}") from None
    if found != benchmark.md5:
        raise DataError(
            f"{path}: its md5 is {found}, and {benchmark.md5} is published; it is damaged, or of another release"
        )
