"""The two ends as processes: a server on a port of the loopback, a device that runs a scenario against it."""

import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_harness

from harness import study
from harness.edge.client import Remote
from harness.edge.pacing import Pace
from harness.edge.server import Limits, serve
from harness.edge.server import listening as listen
from harness.scenario.load import load
from harness.stock import take_stock

HERE = Path(__file__).parent
FAKE = (sys.executable, str(HERE / "fake_harness.py"))
REAL = (sys.executable, "-m", "harness")


def start(*arguments: object, program: tuple[str, ...] = FAKE, **environment: str) -> subprocess.Popen[str]:
    """A process of the command line whose output is read here."""
    return subprocess.Popen(
        [*program, *map(str, arguments)],
        cwd=HERE.parents[1],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def listening(server: subprocess.Popen[str]) -> str:
    """The address that a starting server says it is on."""
    assert server.stdout is not None
    said = []
    for line in server.stdout:
        said.append(line)
        if found := re.search(r", on (http://\S+)", line):
            return found[1]
    raise AssertionError("".join(said))


@contextmanager
def serving(scenario: Path, *options: object, program: tuple[str, ...] = FAKE, **environment: str) -> Iterator[str]:
    """A server's address while the context lasts; it is asked to stop, and must say that it did."""
    server = start("serve", scenario, "--listen", "127.0.0.1:0", *options, program=program, **environment)
    try:
        yield listening(server)
        server.terminate()
        said, _ = server.communicate(timeout=30)
        assert server.returncode == 0, said
        assert "Traceback" not in said
        assert said.endswith("every request that was taken is answered\n"), said
    finally:
        server.kill()
        server.communicate()


FORKS = multiprocessing.get_context("forkserver")
"""Processes that begin with everything imported, from one without threads."""
FORKS.set_forkserver_preload(
    [
        "harness.study",
        "harness.schemes.fake",
        "harness.data.streetsqa",
        "harness.replay.system",
        "harness.report.links",
        "torch.utils.flop_counter",
        "torch.nn.attention",
    ]
)


class Silent:
    """A reporter that shows nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""

    def phase(self, name: str, total: int, done: int) -> None:
        """Nothing."""

    def advance(self) -> None:
        """Nothing."""


def server(scenario: Path, port: int = 0) -> tuple[Any, int]:
    """A process that serves the fakes, and its port."""
    here, there = FORKS.Pipe()
    process = FORKS.Process(target=_serve, args=(scenario, port, there))
    process.start()
    there.close()
    return process, here.recv()


def device(scenario: Path, folder: Path, port: int, pace: str | None = None) -> Any:
    """A process that runs the fakes' device halves against a server."""
    process = FORKS.Process(target=_run, args=(scenario, folder, f"http://127.0.0.1:{port}", pace))
    process.start()
    return process


def _serve(scenario: Path, port: int, told: Any) -> None:
    fake_harness.patch()
    service = study.service(take_stock(load(scenario), serving=True), token=None, limits=Limits())
    with listen("127.0.0.1", port) as listener:
        serve(service, listener, lambda: told.send(listener.getsockname()[1]))


def _run(scenario: Path, folder: Path, url: str, pace: str | None) -> None:
    fake_harness.patch()
    remote = Remote(url=url, pace=None if pace is None else Pace.of(pace))
    study.run(load(scenario), folder, reporter=Silent(), remote=remote)
