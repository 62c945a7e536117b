"""Workers on a Ray cluster: the same results whichever worker dies."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cluster import connected
from harness.errors import UnavailableError

RAY = importlib.util.find_spec("ray") is not None

PROGRAM = """
import functools, os, pathlib, signal, sys, ray
from harness.errors import DataError
from harness.actors import Actors, room
from harness.workers import hand_out

def work(folder, n):
    mark = pathlib.Path(folder, str(n))
    if n in (1, 3) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if n == 100:
        raise DataError("pictures.tsv: no such file")
    return n * n

def actors():
    return Actors(ray, functools.partial(functools.partial, work, sys.argv[1]), on_gpus=False, threads=1)

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
print("room:", room(ray, on_gpus=False, threads=1), room(ray, on_gpus=True, threads=1))
lost = []
print("done:", sorted(hand_out(range(6), actors(), 2, lost=lost.append)))
print("lost:", len(lost))
try:
    list(hand_out([100], actors(), 1))
except DataError as error:
    print("refused:", error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not RAY, reason="the extra [ray] is not installed")
def test_actors_of_which_two_are_killed_do_what_one_process_does(tmp_path: Path) -> None:
    """SIGKILL while they have a task: the task goes to another, and an error in one is raised to the caller."""
    places = [str(Path(__file__).parents[1]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
        capture_output=True,
        text=True,
        check=False,
    )
    if "timed out during startup" in done.stderr:
        pytest.skip("this machine is too busy: Ray gives a cluster 30 s to start")
    assert done.returncode == 0, done.stderr
    # Ray, too, reports on standard output that a worker was killed.
    own = ("room", "done", "lost", "refused")
    assert [line for line in done.stdout.splitlines() if line.startswith(own)] == [
        "room: 2 0",
        f"done: {[(n, n * n) for n in range(6)]}",
        "lost: 2",
        "refused: pictures.tsv: no such file",
    ]


@pytest.mark.skipif(RAY, reason="Ray is installed")
def test_ray_that_is_not_installed_is_named() -> None:
    """The sentence says how to install it."""
    with pytest.raises(UnavailableError, match=r"pip install tofc-harness\[ray\]"), connected():
        pass
