"""Digests of the files that a scenario names."""

from pathlib import Path

from harness.runs.digests import of_file, of_links


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
