"""What some figures of a run show besides its rows: densities of features, where bits went, example pictures.

<run>/illustrations/illustrations.json    of the run's rows as they were; made by 'harness illustrate'
<run>/illustrations/*.png                 the pictures that it names
"""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import ResultsError
from harness.runs import disk
from harness.runs.digests import of_data
from harness.runs.provenance import Manifest

FOLDER, FILE = "illustrations", "illustrations.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Fit(_Part):
    """A fitted density: its location and scale, and the mean log-likelihood per element under it, in nats."""

    location: float
    scale: float
    log_likelihood: float


class Histogram(_Part):
    """The density of a number of ``elements`` between ``edges``, each bin's; ``fits`` by family."""

    elements: int
    edges: tuple[float, ...]
    density: tuple[float, ...]
    fits: dict[str, Fit]


class Density(_Part):
    """The elements of visual features of some pictures, before and after merging, as a scheme has them."""

    pipeline: str
    point: str
    pictures: int
    unmerged: Histogram
    merged: Histogram


class Bits(_Part):
    """How many bits of a request went to a part of its payload: the mean over ``pictures``."""

    pipeline: str
    point: str
    part: str
    bits: float
    pictures: int


class Case(_Part):
    """A question, and the answers of two schemes.

    ``labels`` says of each feature of the thumbnail, row by row, into which merged feature it went; ``shown`` and
    ``left`` are the files of the picture and of the decoded JPEG, ``jpeg`` how that was written.
    """

    sample: str
    question: str
    options: dict[str, str]
    truth: str
    answer: str
    jpeg_answer: str
    jpeg_right: bool
    payload_bytes: int
    jpeg_bytes: int
    jpeg: str
    labels: tuple[tuple[int, ...], ...]
    shown: str
    left: str


class Cases(_Part):
    """Cases and the ``rule`` by which they were chosen."""

    pipeline: str
    point: str
    rule: str
    cases: tuple[Case, ...]


class Illustrations(_Part):
    """What was computed of a run; ``absent`` says of a part that is null why it could not be."""

    run: str
    machine: str
    density: Density | None = None
    bits: tuple[Bits, ...] = ()
    cases: Cases | None = None
    absent: dict[str, str] = {}


def identity(manifest: Manifest) -> str:
    """What identifies a run's rows."""
    return of_data(manifest.tables)


def write(folder: Path, found: Illustrations, pictures: Mapping[str, bytes]) -> Path:
    """Writes them into a run's folder, in place of earlier ones; returns their folder."""
    target = folder / FOLDER
    content = json.dumps(found.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    disk.write_folder(target, {FILE: content.encode(), **pictures}, replace=True)
    return target


def read(folder: Path, manifest: Manifest) -> Illustrations | None:
    """Those of a run; None where there are none, or they are of rows that the run no longer has.

    Raises ResultsError for a file that is not what :func:`write` wrote.
    """
    path = folder / FOLDER / FILE
    try:
        found = Illustrations.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        first = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else None
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise ResultsError(f"{path}: is damaged ({why}); make it again with 'harness illustrate'") from None
    return found if found.run == identity(manifest) else None
