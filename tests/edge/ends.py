"""The two ends as processes: a server on a port of the loopback, a device that runs a scenario against it."""

import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import loaded, study
from harness.edge.client import Remote
from harness.edge.server import ServerLimits, serve
from harness.edge.server import listening as listen
from harness.edge.shaping import Shaper
from harness.scenario.load import load
from harness.stock import take_stock
from tests.edge import fake_harness
from tests.silent import Silent

ROOT = Path(__file__).parents[2]
FAKE = (sys.executable, "-m", "tests.edge.fake_harness")


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A process of the command line with the fakes, whose output is read here."""
    return subprocess.Popen(
        [*FAKE, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def listening(server: subprocess.Popen[str]) -> str:
    """The address that a starting server prints."""
    assert server.stdout is not None
    said = []
    for line in server.stdout:
        said.append(line)
        if found := re.search(r", on (http://\S+)", line):
            return found[1]
    raise AssertionError("".join(said))


@contextmanager
def serving(scenario: Path, *options: object, **environment: str) -> Iterator[str]:
    """A server's address while the context lasts; then it is stopped, and must report that."""
    server = start("serve", scenario, "--listen", "127.0.0.1:0", *options, **environment)
    try:
        yield listening(server)
        server.terminate()
        said, _ = server.communicate(timeout=30)
        assert server.returncode == 0, said
        assert "Traceback" not in said
        assert said.endswith("every accepted request was answered\n"), said
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
        "harness.report.sections",
        "torch.utils.flop_counter",
        "torch.nn.attention",
    ]
)


def begun(work: Callable[..., None], *arguments: Any) -> Any:
    """A process in which ``work`` runs."""
    process = FORKS.Process(target=work, args=arguments)
    process.start()
    return process


def server(scenario: Path, port: int = 0, begin: Callable[..., Any] = begun) -> tuple[Any, int]:
    """A process that serves a scenario, the fakes' or another, and its port."""
    here, there = FORKS.Pipe()
    process = begin(_serve, scenario, port, there)
    there.close()
    return process, here.recv()


def device(scenario: Path, folder: Path, port: int, shaper: str | None = None) -> Any:
    """A process that runs the fakes' device halves against a server."""
    return begun(_run, scenario, folder, f"http://127.0.0.1:{port}", shaper)


def _serve(scenario: Path, port: int, told: Any) -> None:
    fake_harness.patch()
    service = loaded.service(take_stock(load(scenario), serving=True), token=None, limits=ServerLimits())
    with listen("127.0.0.1", port) as listener:
        serve(service, listener, lambda: told.send(listener.getsockname()[1]))


def _run(scenario: Path, folder: Path, url: str, shaper: str | None) -> None:
    fake_harness.patch()
    remote = Remote(url=url, shaper=None if shaper is None else Shaper.of(shaper))
    study.run(load(scenario), folder, reporter=Silent(), remote=remote)
