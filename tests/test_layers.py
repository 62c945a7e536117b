"""The layers of docs/design.md hold, and the command line starts at once."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_help_imports_nothing_heavy() -> None:
    """``harness --help`` answers at once because the numerical libraries wait until they are wanted."""
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


def test_the_schemes_of_learned_codecs_import_no_network() -> None:
    """A scenario that names them is checked without building what they compute with, and without compressai."""
    code = (
        "import sys, baselines.neural_codec, baselines.compressai_zoo\n"
        "print([name for name in sys.modules if name.startswith(('baselines.networks', 'compressai'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_every_name_of_the_catalog_exists() -> None:
    """A name that a scenario may use leads to an object."""
    from harness import catalog

    for what in ("SCHEMES", "BACKBONES", "BENCHMARKS", "PAYLOADS", "CODEC_FORMATS"):
        table = getattr(catalog, what)
        for name in table:
            assert callable(catalog.load(what, name, table)), name
    for name in catalog.CODEC_FOLDERS:
        assert catalog.load("folder of codecs", name, catalog.CODEC_FOLDERS).is_dir(), name


def test_every_word_of_the_glossary_is_where_it_says() -> None:
    """The last column names a module or a package for each word."""
    rows = re.findall(r"^\| .* \| (`harness.*) \|$", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) > 30
    for name in re.findall(r"`([\w.]+)`", ", ".join(rows)):
        assert importlib.util.find_spec(name) is not None, name


def test_an_unknown_name_lists_the_known_ones() -> None:
    """The error teaches the vocabulary."""
    from harness import catalog
    from harness.errors import ScenarioError

    with pytest.raises(ScenarioError, match="unknown scheme 'gif'; known: avif, compressai, device_only, "):
        catalog.load("scheme", "gif", catalog.SCHEMES)
