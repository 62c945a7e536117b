"""What a fresh process loads for a half of a scheme, or for a finished run: nothing that is not needed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_run import make

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "peft", "accelerate", "compressai", "numba")
DEVICE = """
from harness import catalog
from harness.data.asking import samples
from harness.data.streetsqa import book
from harness.models.contract import Untimed
from harness.schemes.envelope import send
from harness.schemes.fake import FakeModels

class Nothing:
    name, device, max_pixels = "mini-onevision", "cpu", 16_000_000

scheme = catalog.load("scheme", {name!r}, catalog.SCHEMES)
half = scheme.device_half(Nothing(), scheme.Point(**{point!r}))
sample = samples(book("test", 0)[:1], paired=False)[0]
assert send(half, sample, Untimed())
"""


def loaded(code: str, *arguments: object) -> set[str]:
    """The heavy packages that a fresh process has loaded after some code."""
    code = f"import sys\n{code}\nprint('loaded', *(set({HEAVY}) & sys.modules.keys()))"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()) - {"loaded"}


@pytest.mark.parametrize(("name", "point"), [("jpeg", {"quality": 30}), ("avif", {"quality": 30}), ("server_only", {})])
def test_a_device_half_that_needs_no_model_loads_no_torch(name: str, point: dict[str, object]) -> None:
    """From the catalog's name to the payload of a picture, with nothing of a model at hand."""
    assert loaded(DEVICE.format(name=name, point=point)) == set()


def test_every_point_is_checked_without_torch() -> None:
    """The parameters of every scheme of the catalog are known without what runs them."""
    code = (
        "from harness import catalog\n"
        "for name in catalog.SCHEMES:\n"
        "    assert catalog.load('scheme', name, catalog.SCHEMES).Point.model_json_schema()\n"
    )
    assert loaded(code) == set()


COMMAND = """
import harness.cli
sys.argv = ["harness", *sys.argv[1:]]
try:
    harness.cli.main()
except SystemExit as left:
    assert not left.code, left.code
"""


@pytest.mark.parametrize("scenario", sorted((ROOT / "scenarios").glob("*.yaml")), ids=lambda path: path.stem)
def test_checking_a_scenario_loads_no_torch(scenario: Path) -> None:
    """``harness check`` says what would run before anything that runs it is there."""
    assert loaded(COMMAND, "check", scenario) & {"torch", "transformers", "peft", "accelerate", "compressai"} == set()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run."""
    folder = tmp_path_factory.mktemp("runs") / "tonight"
    make(folder)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ("sweep", ROOT / "scenarios" / "smoke.yaml"),
        ("advise", "--rate", "1Mbps", "--deadline", "10s", "--min-score", "0"),
        ("show",),
    ],
    ids=lambda words: words[0],
)
def test_a_finished_run_is_replayed_and_read_without_torch(
    finished: Path, command: tuple[object, ...], tmp_path: Path
) -> None:
    """A laptop without a deep-learning stack replays, advises and shows."""
    folder = shutil.copytree(finished, tmp_path / "tonight")
    found = loaded(COMMAND, command[0], folder, *command[1:])
    assert found & {"torch", "transformers", "peft", "accelerate", "compressai"} == set()
