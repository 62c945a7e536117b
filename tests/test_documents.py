"""What the documents name is there: links, files, commands, schemes."""

import re
from pathlib import Path

import pytest

from harness import catalog

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *(ROOT / name / "README.md" for name in ("training", "results"))})
FOLDERS = "harness|baselines|benchmarks|containers|docs|examples|scenarios|tests|tools|training"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_names_is_there(path: Path) -> None:
    """Links lead to files, paths of the tree exist, and what ``python -m`` runs is a module."""
    text = path.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (path.parent / link).exists()] == []
    if path.name == "CHANGELOG.md":
        return
    named = re.findall(rf"[\s`(]((?:{FOLDERS})/[\w./-]+\.(?:py|md|yaml|json|parquet))\b", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    modules = re.findall(rf"python -m ((?:{FOLDERS})[\w.]*)", text)
    places = [ROOT.joinpath(*module.split(".")) for module in modules]
    assert [place for place in places if not (place.with_suffix(".py").is_file() or place.is_dir())] == []


def test_every_scheme_is_drawn() -> None:
    """docs/codecs.md says of every scheme which half does what."""
    text = (ROOT / "docs" / "codecs.md").read_text(encoding="utf-8")
    assert [name for name in catalog.SCHEMES if not re.search(rf"\b{name}\b", text)] == []
