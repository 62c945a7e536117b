"""A real link to check the replay against: two network namespaces, a veth pair and a token bucket (Linux, root).

Nothing has to be cleaned up. The namespaces belong to two child processes, and vanish with them, and the kernel ends
those with this process, however it ends.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from harness.errors import UnavailableError
from harness.replay import exchange

HEADER_BYTES = 66
"""What a token bucket on a veth counts with each segment: Ethernet 14, IPv4 20, TCP with time stamps 32."""


class Testbed:
    """A device and a server with one TCP connection between them, its uplink shaped."""

    def __init__(self, device: subprocess.Popen[str], server: subprocess.Popen[str], segment_bytes: int) -> None:
        self._device = device
        self._server = server
        self.segment_bytes = segment_bytes

    @classmethod
    @contextlib.contextmanager
    def open(cls, rate_bps: float, burst_bytes: int) -> Iterator[Self]:
        """A testbed while the context lasts; raises UnavailableError, with what is missing, if none can be."""
        script = [sys.executable, "-I", str(Path(exchange.__file__))]
        with joined([*script, "device"], [*script, "server"]) as (device, server):
            say(server, {"go": True})
            hear(server)
            say(device, {"go": True})
            say(device, {"rate_bps": rate_bps, "burst_bytes": burst_bytes})
            yield cls(device, server, int(hear(device)["segment"]))

    def shape(self, rate_bps: float, burst_bytes: int) -> None:
        """Change the uplink's rate and the depth of its bucket."""
        say(self._device, {"rate_bps": rate_bps, "burst_bytes": burst_bytes})
        hear(self._device)

    def request(
        self, device_s: float, n_bytes: int, server_s: float, *, idle_s: float = 0.0, primer_bytes: int = 0
    ) -> dict[str, float]:
        """One request, when it got how far; the instants are of the machine's monotonic clock."""
        order = {"device_s": device_s, "n_bytes": n_bytes, "server_s": server_s}
        say(self._device, {**order, "idle_s": idle_s, "primer_bytes": primer_bytes})
        return hear(self._device)


def why_not() -> str | None:
    """What this machine lacks for a testbed, if anything."""
    if sys.platform != "linux":
        return f"network namespaces are Linux's, and this is {sys.platform}"
    if os.geteuid() != 0:
        return "it takes root, to make network namespaces and shape a link; run it with sudo"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"the command '{tool}' is not installed; it is part of iproute2"
    return None


@contextlib.contextmanager
def joined(
    device: Sequence[str], server: Sequence[str]
) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """The processes of two commands with a link between their network namespaces.

    Each calls :func:`harness.replay.exchange.enter` first, and waits there for the first message.
    """
    if reason := why_not():
        raise UnavailableError(f"a real link cannot be made here: {reason}")
    with _end(device) as on_device, _end(server) as on_server:
        _veth({"device": hear(on_device)["pid"], "server": hear(on_server)["pid"]})
        yield on_device, on_server


@contextlib.contextmanager
def _end(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _veth(pids: dict[str, int]) -> None:
    device, server = exchange.INTERFACE["device"], exchange.INTERFACE["server"]
    pair = ["netns", str(pids["device"]), "type", "veth", "peer", "name", server, "netns", str(pids["server"])]
    done = subprocess.run(["ip", "link", "add", device, *pair], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(f"a real link cannot be made here: ip link add: {done.stderr.strip()}")


def say(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
    """Send a message to an end."""
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        hear(process)


def hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next message of an end; raises UnavailableError if it reports an error or stopped."""
    assert process.stdout is not None
    line = process.stdout.readline()
    message: dict[str, Any] = json.loads(line) if line else {"error": f"an end of the link stopped ({process.wait()})"}
    if "error" in message:
        raise UnavailableError(f"a real link cannot be made here: {message['error']}")
    return message
