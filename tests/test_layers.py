"""The layers of docs/design.md hold, and the command line starts at once."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_help_imports_nothing_heavy() -> None:
    """``harness --help`` answers at once because the numerical libraries are imported when needed."""
    code = (
        "import sys, harness.cli\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'pyarrow', 'matplotlib', 'numba', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_replay_results_and_figures_run_without_torch() -> None:
    """A laptop that only replays and draws needs no deep-learning stack: nothing here imports it, even indirectly."""
    code = (
        "import sys, harness.replay, harness.runs.store, harness.analysis.select\n"
        "import harness.report.figures.gallery, harness.scenario.replay\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_schemes_of_learned_codecs_import_no_network() -> None:
    """A scenario that names them is checked without building what they compute with, and without compressai."""
    code = (
        "import sys, baselines.neural_codec, baselines.compressai_zoo\n"
        "print([name for name in sys.modules if name.startswith(('baselines.networks', 'compressai'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def reached_by_path(module: Path) -> Iterator[Path]:
    """What a module joins to its own path, as in ``Path(__file__).parents[1] / "zoo"``; ``*`` for what varies."""

    def value(node: ast.expr) -> Path | None:
        match node:
            case ast.Call(func=ast.Name(id="Path"), args=[ast.Name(id="__file__")]):
                return module
            case ast.Attribute(value=inner, attr="parent"):
                return found.parent if (found := value(inner)) else None
            case ast.Subscript(value=ast.Attribute(value=inner, attr="parents"), slice=ast.Constant(value=int(up))):
                return found.parents[up] if (found := value(inner)) else None
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                text = right.value if isinstance(right, ast.Constant) else "*"
                return found / str(text) if (found := value(left)) else None
            case ast.Call(func=ast.Attribute(value=inner, attr="with_name" | "joinpath" as way), args=[first, *_]):
                text = first.value if isinstance(first, ast.Constant) else "*"
                found = value(inner)
                return found and (found.with_name(str(text)) if way == "with_name" else found / str(text))
            case ast.Call(func=ast.Attribute(value=inner, attr="resolve")):
                return value(inner)
        return None

    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.expr) and (found := value(node)):
            yield found


def layers() -> list[str]:
    """The contract's layers, the highest first; those on one level one after the other."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    listed = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [name.strip(" ()") for layer in listed for name in layer.replace(":", "|").split("|")]


@pytest.mark.slow
def test_paths_point_down_the_layers_as_imports_do() -> None:
    """A path cannot hide what an import would show: only the catalog uses the zoo's folder."""
    package, order = ROOT / "harness", layers()
    reached = set()
    for module in sorted(package.rglob("*.py")):
        own = module.relative_to(package).parts[0].removesuffix(".py")
        for path in reached_by_path(module):
            if path.is_relative_to(package) and path != package:
                reached.add((own, path.relative_to(package).parts[0].removesuffix(".py")))
    others = {(own, other) for own, other in reached if own in order and own != other}
    upwards = {(own, other) for own, other in others if other not in order[order.index(own) :]}
    assert upwards == {("catalog", "zoo")}


@pytest.mark.parametrize(
    "code",
    [
        'Path(__file__).parents[1] / "zoo" / "tofc"',
        'Path(__file__).resolve().parent.parent.joinpath("zoo")',
        'Path(__file__).parent.with_name("zoo")',
    ],
)
def test_a_path_into_another_package_is_found(tmp_path: Path, code: str) -> None:
    """Each way of writing one is seen, as the contract's own check."""
    (tmp_path / "tofc").mkdir()
    module = tmp_path / "tofc" / "codec.py"
    module.write_text(f"from pathlib import Path\nCODECS = {code}\n", encoding="utf-8")
    assert tmp_path / "zoo" in set(reached_by_path(module))


def test_the_contract_lists_every_layer() -> None:
    """Each package and module is in the contract, and what the contract names exists."""
    package = (ROOT / "harness").iterdir()
    here = {path.stem for path in package if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(layers()) == here - {"__init__", "__main__"}


def test_the_tree_of_the_design_is_the_tree_on_disk() -> None:
    """Each module and folder of the package is in the first column of docs/design.md's tree, and nothing else is."""
    tree = (ROOT / "docs" / "design.md").read_text().partition("## The tree")[2].partition("\n## ")[0]
    columns = [re.split(r"\s{2,}", line.strip())[0] for line in tree.splitlines() if line.startswith("    ")]
    named = [name for column in columns for name in re.findall(r"\w+(?:\.py|/)", column)]
    packages = {"harness/", "baselines/", "recipes/"}
    own = [name for name in named if name not in packages]
    package = ROOT / "harness"
    here = {path.name for path in package.glob("[!_]*.py")} | {f"{path.name}/" for path in package.glob("[!_]*/")}
    assert sorted(own) == sorted(here)
    assert packages <= set(named)


def test_every_name_of_the_catalog_exists() -> None:
    """Each name that a scenario may use leads to an object."""
    from harness import catalog

    for what in ("SCHEMES", "BACKBONES", "BENCHMARKS", "PAYLOADS", "CODEC_FORMATS"):
        table = getattr(catalog, what)
        for name in table:
            assert callable(catalog.load(what, name, table)), name
    for name in catalog.CODEC_FOLDERS:
        assert catalog.load("folder of codecs", name, catalog.CODEC_FOLDERS).is_dir(), name


def test_every_word_of_the_glossary_is_defined_where_it_says() -> None:
    """The last column names a module or a package for each word."""
    rows = re.findall(r"^\| .* \| (`harness.*) \|$", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) > 30
    for name in re.findall(r"`([\w.]+)`", ", ".join(rows)):
        assert importlib.util.find_spec(name) is not None, name


def test_an_unknown_name_lists_the_known_ones() -> None:
    """The error lists the vocabulary."""
    from harness import catalog
    from harness.errors import ScenarioError

    with pytest.raises(ScenarioError, match="unknown scheme 'gif'; known: avif, compressai, device_only, "):
        catalog.load("scheme", "gif", catalog.SCHEMES)
