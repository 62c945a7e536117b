"""Benchmarks that the project draws: built once as a TSV, then read like a user's own."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.data.pictures import MAX_PIXELS
from harness.data.sample import Sample
from harness.data.tsv import TsvSamples, read_tsv
from harness.data.tsv_writer import write_tsv
from harness.errors import DataError
from harness.files import Stamp, hexdigest, stamp, write_whole


def checksum(samples: Sequence[Sample]) -> str:
    """SHA-256 over every sample's texts and every picture's decoded pixels, in order.

    Pixels, not files: two builds of a JPEG encoder may write different bytes for the same picture. A picture's name
    here is therefore the id of the first sample that shows it.
    """
    digest = hashlib.sha256()
    first: dict[str, str] = {}
    for sample in samples:
        question = sample.question
        new = sample.image_id not in first
        texts = [
            sample.id, first.setdefault(sample.image_id, sample.id), sample.truth, sample.category, sample.group,
            question.text, question.kind, dict(question.options), question.hint,
        ]  # fmt: skip
        digest.update(json.dumps(texts).encode())
        if new:
            picture = sample.image()
            digest.update(json.dumps(picture.size).encode() + picture.tobytes())
    return digest.hexdigest()


def load_bundled(
    name: str,
    cache: Path,
    expected: str,
    build: Callable[[], Sequence[Sample]],
    *,
    max_pixels: int = MAX_PIXELS,
) -> TsvSamples:
    """The samples of ``cache/<name>-<checksum>.tsv``, built first where it is absent.

    Raises DataError where they are not the samples that ``expected`` pins.
    """
    path = cache / f"{name}-{expected[:12]}.tsv"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        write_tsv(path, build())
    return _checked(path, name, expected, max_pixels, stamp(path))


@functools.lru_cache(maxsize=2)
def _checked(
    path: Path,
    name: str,
    expected: str,
    max_pixels: int,
    facts: Stamp,  # noqa: ARG001 - they say when to check again
) -> TsvSamples:
    samples = read_tsv(path, name, max_pixels=max_pixels)
    # Decoding all pictures takes a second: the digest of a file that has passed is beside it.
    passed = path.with_suffix(".sha256")
    digest = hexdigest(path, hashlib.sha256()).encode()
    with contextlib.suppress(OSError):
        if passed.read_bytes() == digest:
            return samples
    found = checksum(samples)
    if found != expected:
        raise DataError(
            f"{path}: its pixels and texts have the checksum {found[:12]}, not {expected[:12]}; "
            "delete the file to have it built again"
        )
    with contextlib.suppress(OSError):  # It is checked again then.
        write_whole(passed, lambda file: file.write(digest))
    return samples
