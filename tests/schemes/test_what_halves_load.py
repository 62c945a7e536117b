"""What a fresh process loads for a half of a scheme, or for a finished run: only what is needed."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.made_up_run import make

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "peft", "accelerate", "compressai", "numba")


def loaded(code: str, *arguments: object) -> set[str]:
    """The heavy packages that a fresh process has loaded after some code."""
    code = f"import sys\n{code}\nprint('loaded', *(set({HEAVY}) & sys.modules.keys()))"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()) - {"loaded"}


DEVICE = """
from harness import catalog
from harness.data.questions import samples
from harness.data.streetsqa import book
from harness.models.contract import Untimed
from harness.schemes.envelope import send
from harness.schemes.fake import FakeModels

class Nothing:
    name, device, max_pixels = "mini-onevision", "cpu", 16_000_000

sample = samples(book("test", 0)[:1], paired=False)[0]
for name, point in (("jpeg", {"quality": 30}), ("avif", {"quality": 30}), ("server_only", {})):
    scheme = catalog.load("scheme", name, catalog.SCHEMES)
    assert send(scheme.device_half(Nothing(), scheme.Point(**point)), sample, Untimed())
"""


@pytest.mark.slow
def test_a_device_half_that_needs_no_model_loads_no_torch() -> None:
    """From the catalog's name to the payload of a picture, without any part of a model."""
    assert loaded(DEVICE) == set()


@pytest.mark.slow
def test_every_point_is_checked_without_torch() -> None:
    """The parameters of every scheme of the catalog are known without what runs them."""
    code = (
        "from harness import catalog\n"
        "for name in catalog.SCHEMES:\n"
        "    assert catalog.load('scheme', name, catalog.SCHEMES).Point.model_json_schema()\n"
    )
    assert loaded(code) == set()


COMMANDS = """
import harness.cli, json
for sys.argv in json.loads(sys.argv[1]):
    try:
        harness.cli.main()
    except SystemExit as left:
        assert not left.code, left.code
"""


def commands(*lines: Sequence[object]) -> set[str]:
    """What a process has loaded of the deep-learning stack that runs these commands, one after the other."""
    given = json.dumps([["harness", *map(str, line)] for line in lines])
    return loaded(COMMANDS, given) - {"numba"}


@pytest.mark.slow
def test_checking_a_scenario_loads_no_torch() -> None:
    """``harness check`` says what would run on a machine that cannot run it."""
    assert commands(["check", *sorted((ROOT / "scenarios").glob("*.yaml"))]) == set()


@pytest.mark.slow
def test_a_finished_run_is_replayed_and_read_without_torch(tmp_path: Path) -> None:
    """A laptop without a deep-learning stack replays, advises and shows."""
    folder = tmp_path / "tonight"
    make(folder)
    scenario = ROOT / "scenarios" / "smoke.yaml"
    advise = ("advise", folder, "--rate", "1Mbps", "--deadline", "10s", "--min-score", "0")
    assert commands(("sweep", folder, scenario), advise, ("show", folder)) == set()
