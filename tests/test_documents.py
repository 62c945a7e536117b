"""What the documents name exists: links, files, commands, schemes."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from harness import catalog

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    {*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *(ROOT / name / "README.md" for name in ("training", "results"))}
)
FOLDERS = "harness|baselines|benchmarks|containers|docs|examples|recipes|scenarios|tests|tools|training"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_names_exists(path: Path) -> None:
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
    """docs/codecs.md shows for every scheme what each half does."""
    text = (ROOT / "docs" / "codecs.md").read_text(encoding="utf-8")
    assert [name for name in catalog.SCHEMES if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_of_a_document_exists(path: Path) -> None:
    """What follows ``harness`` in code is a command, with options of that command."""
    from harness.cli import app

    text = path.read_text(encoding="utf-8")
    lines = re.findall(r"^ {4,}(?:.*[/ ])?harness ([a-z].*)$", text, re.MULTILINE) + re.findall(
        r"`harness ([^`]+)`", text
    )
    for line in lines if path.name != "CHANGELOG.md" else []:
        words = line.partition(" #")[0].replace("\\", " ").split()
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands") and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
            assert words[0] in command.commands, f"harness {line}"
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0].strip("'\",.") for word in words if word.startswith("--")} <= known, (
            f"harness {line}"
        )


@pytest.mark.slow
def test_the_readme_shows_the_reference_run(tmp_path: Path) -> None:
    """Its table is that of the committed rows, and its figure is of the same run."""
    from harness.analysis import Analysis
    from harness.report import table

    run = Analysis.read_all([ROOT / "results" / "reference" / "realworldqa_lowrate"])[0]
    table.write(run, tmp_path / "table.md")
    made = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line for line in made if line.startswith("| scheme |") or "| 25 KB/s |" in line]
    assert len(rows) == 9
    assert [line for line in rows if line not in shown] == []
    assert run.manifest.scenario_hash[:16] in (ROOT / "docs" / "reference" / "fig8.svg").read_text(encoding="utf-8")


def _written(text: str) -> set[str]:
    """The paths that a document's commands write, with each value of a loop over a variable."""
    found = set()
    for line in re.findall(r"^ {4,}(.*)$", text, re.MULTILINE):
        loop = re.match(r"for (\w+) in ([^;]+); do ", line)
        for value in loop[2].split() if loop else [""]:
            said = line.replace(f"${loop[1]}", value) if loop else line
            found |= set(re.findall(r"out=(\S+?)(?:;|$| )", said)) | set(re.findall(r"convert \S+ ([^;\s]+)", said))
    return found


@pytest.mark.parametrize(
    ("document", "scenario"),
    [
        ("training/README.md", "first_number"),
        ("training/README.md", "realworldqa_lowrate"),
        ("docs/full_size.md", "first_number"),
    ],
)
def test_the_documented_commands_make_all_that_a_scenario_names(document: str, scenario: str) -> None:
    """Each codec, adapter and network of the full-size points is what a command of the document writes."""
    from harness.scenario.load import load

    study = load(ROOT / "scenarios" / f"{scenario}.yaml")
    points = [point for spec in study.pipelines for point in spec.operating_points()]
    named = {str(name) for key in ("codec", "adapter", "weights") for p in points if (name := getattr(p, key, None))}
    text = (ROOT / document).read_text(encoding="utf-8")
    wanted = {name if "/" in name else f"codecs/{study.backbone}/{name}" for name in named}
    assert wanted
    assert wanted - _written(text) == set()
    assert f"scenarios/{scenario}.yaml" in text
