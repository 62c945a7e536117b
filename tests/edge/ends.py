"""The two ends as processes: a server on a port of the loopback, a device that runs a scenario against it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
