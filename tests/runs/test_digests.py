"""Digests of the files that a scenario names."""

import os
from pathlib import Path

import pytest

from harness.runs import digests
from harness.runs.digests import of_file, of_links


def test_a_large_file_that_was_overwritten_has_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where size, inode and modification time are those of the file before, as after ``cp -p``."""
    monkeypatch.setattr(digests, "cache_folder", lambda: tmp_path)
    digests._cached.cache_clear()
    weights = tmp_path / "codec.safetensors"
    found = []
    for content in (b"a", b"b"):
        weights.write_bytes(content * 2**20)
        os.utime(weights, (1e9, 1e9))
        found.append(of_file(weights))
    digests._cached.cache_clear()
    assert found[0] != found[1]


def test_links_of_one_name_in_two_folders_are_both_digested(tmp_path: Path) -> None:
    """A change of either is found; a name of a single file has that file's digest."""
    paths = [tmp_path / folder / "lte.parquet" for folder in ("bus", "car")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(str(path.parent.name))
    alone = of_links(paths[:1])
    assert alone == {"link lte.parquet": of_file(paths[0])}
    both = of_links(paths)
    assert both.keys() == alone.keys()
    assert both != alone
    for path in paths:
        before = of_links(paths)
        path.write_text("another recording")
        assert of_links(paths) != before
