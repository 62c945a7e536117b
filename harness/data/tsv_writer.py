"""Writes samples as a TSV (:mod:`harness.data.tsv`)."""

import base64
import csv
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.data.sample import Sample
from harness.data.tsv import LONGEST_REFERENCE, Dialect
from harness.errors import DataError


def write_tsv(path: str | os.PathLike[str], samples: Sequence[Sample]) -> None:
    """Writes samples so that :func:`harness.data.tsv.read_tsv` gives them back; the file is written atomically.

    A picture is written once, with the first sample that shows it; the others refer to it. Raises DataError for samples
    that the form cannot hold.
    """
    path = Path(path)
    letters = sorted({letter for sample in samples for letter in sample.question.options})
    columns = ["index", "image", "question", "hint", *letters, "answer", "category", "group"]
    holders: dict[str, Sample] = {}
    written: set[str] = set()
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            writer = csv.DictWriter(file, columns, dialect=Dialect)
            writer.writeheader()
            for sample in samples:
                _check_writable(sample, written)
                writer.writerow(_row_of(sample, holders.setdefault(sample.image_id, sample)))
                written.add(sample.id)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _check_writable(sample: Sample, written: set[str]) -> None:
    if not 0 < len(sample.id) <= LONGEST_REFERENCE:
        raise DataError(f"sample {sample.id!r}: an id has 1 to {LONGEST_REFERENCE} characters")
    if sample.id in written:
        raise DataError(f"sample {sample.id!r}: its id is that of another sample; an id is given once")
    if empty := [letter for letter, text in sample.question.options.items() if not text]:
        raise DataError(f"sample {sample.id!r}: option {empty[0]} has no text; an empty field is not an option")


def _row_of(sample: Sample, holder: Sample) -> dict[str, str]:
    """A sample as a row, where ``holder`` is the first one that showed its picture."""
    return {
        "index": sample.id,
        "image": image_field(sample.files) if holder is sample else holder.id,
        "question": sample.question.text,
        "hint": sample.question.hint,
        **sample.question.options,
        "answer": sample.truth,
        "category": sample.category,
        "group": sample.group,
    }


def image_field(files: Sequence[bytes]) -> str:
    """Picture files as a row's image: one in base64, or a list of several.

    What is so short that it would be taken for another row's index is a list with spaces behind its last item.
    """
    encoded = [base64.b64encode(file).decode("ascii") for file in files]
    if len(encoded) == 1 and len(encoded[0]) > LONGEST_REFERENCE:
        return encoded[0]
    return f"{str(encoded)[:-1].ljust(LONGEST_REFERENCE)}]"
