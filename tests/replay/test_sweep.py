"""Sweeps: the same rows from any number of workers."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from harness.errors import UnavailableError
from harness.replay import sweep
from harness.scenario.replay import Replay
from tests.replay.systems import drawn_profile, spec_of

RAY = importlib.util.find_spec("ray") is not None


def _spec() -> Replay:
    uplinks = [{"kind": "constant", "rate": "50 KB/s"}, {"kind": "constant", "rate": "100 KB/s"}]
    return spec_of(seeds=2, users=[1, 3], requests=10, arrivals={"kind": "poisson", "rate": "1 /s"}).model_copy(
        update={"uplinks": Replay.model_validate({"uplinks": uplinks}).uplinks}
    )


def test_a_sweep_is_every_cell_in_order() -> None:
    """Profiles, then uplinks, then users, then seeds; each with its own rows."""
    rows = sweep([drawn_profile(0), drawn_profile(1)], _spec()).to_pandas()
    assert len(rows) == 2 * 2 * 2 * (1 + 3) * 10
    cells = rows[["channel", "users", "seed"]].drop_duplicates()
    assert list(cells.itertuples(index=False, name=None)) == [
        (channel, users, seed) for channel in ("50 KB/s", "100 KB/s") for users in (1, 3) for seed in (0, 1)
    ]


@pytest.mark.slow
def test_workers_do_not_change_a_number() -> None:
    """Two processes give, row by row, what one gives."""
    assert sweep([drawn_profile(0)], _spec(), workers=2) == sweep([drawn_profile(0)], _spec())


def test_compared_schemes_meet_the_same_arrivals_and_questions() -> None:
    """Profiles of the same samples get the same samples at the same instants, over every uplink."""
    spec = _spec().model_copy(update={"users": (1,), "seeds": 1})
    rows = sweep([drawn_profile(0), drawn_profile(1)], spec)
    asked = [rows.slice(start, 10).select(["sample", "submitted_s"]) for start in range(0, 40, 10)]
    assert all(one == asked[0] for one in asked)


def test_seeds_are_different_streams() -> None:
    """Another seed gives other instants."""
    rows = sweep([drawn_profile(0)], _spec().model_copy(update={"users": (1,)})).to_pandas()
    assert rows.groupby("seed")["submitted_s"].first().nunique() == 2


OVER_RAY = """
import sys, pyarrow.parquet, ray
from harness.errors import TraceError
from harness.replay import sweep
from tests.replay.systems import drawn_profile, spec_of
from tests.replay.test_sweep import _spec

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
pyarrow.parquet.write_table(sweep([drawn_profile(0)], _spec(), workers="ray"), sys.argv[1])
try:
    sweep([drawn_profile(0)], spec_of(uplink={"kind": "trace", "path": "none.parquet"}), workers="ray")
except TraceError as error:
    print("refused:", error)
print("still connected:", ray.is_initialized())
"""


@pytest.mark.slow
@pytest.mark.skipif(not RAY, reason="the extra [ray] is not installed")
def test_a_ray_cluster_does_not_change_a_number(tmp_path: Path) -> None:
    """A local Ray cluster gives, row by row, what one process gives, and raises what one process raises."""
    command = [sys.executable, "-c", OVER_RAY, str(tmp_path / "rows.parquet")]
    # The folder of the tests, for the program and for the cluster's workers.
    places = [str(Path(__file__).parents[2]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    if "timed out during startup" in done.stderr:
        pytest.skip("this machine is too busy: Ray gives a cluster 30 s to start")
    assert done.returncode == 0, done.stderr
    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet") == sweep([drawn_profile(0)], _spec())
    assert "refused: none.parquet: does not exist" in done.stdout
    assert "still connected: True" in done.stdout


@pytest.mark.skipif(RAY, reason="Ray is installed")
def test_ray_that_is_not_installed_is_named() -> None:
    """The sentence says how to install it."""
    with pytest.raises(UnavailableError, match=r"pip install tofc-harness\[ray\]"):
        sweep([drawn_profile(0)], _spec(), workers="ray")
