"""The two ends of a validation: a device and a server that exchange real bytes over a real, shaped TCP link.

Run as a script, ``exchange.py device|server``, by :mod:`harness.replay.testbed`, and spoken to in lines of JSON; it
imports nothing of the harness, so that it starts at once. Each end lives in a network namespace of its own that no name
refers to: it is gone, with its interface and its queue, as soon as its process is, however that ends.

Stages are emulated by waiting for the durations that were recorded. Both ends read the same monotonic clock.

What is measured is the link, not the machine: with two processors, each end has one to itself, which does not sleep,
and polls for what is due soon instead of being woken for it. With one, a polling end would keep the other from sending:
both are woken.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PORT = 7077
ADDRESS = {"device": "10.203.77.1", "server": "10.203.77.2"}
INTERFACE = {"device": "tofc-device", "server": "tofc-server"}
_HEADER = struct.Struct("<qd?")
HEADER_BYTES = _HEADER.size
"""The smallest payload: its own length, the server's work, and whether an answer is wanted, are its first bytes."""

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
# The testbed imports this module on every system, to say why there can be no real link.
_PROCESSORS = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
_SPIN_S = 2e-3
_SOON_S = 0.25
"""An end sleeps if nothing is due within this time: one that always polled would starve the rest of the machine."""
_SOON_BYTES = 4096
"""When so little of a payload is missing, the server starts to poll."""
_NOTICE_S = 1e-3
_NOTICE_WIRE_BYTES = HEADER_BYTES + 66


def main(end: str) -> None:
    """Live as one end until standard input closes."""
    enter(end)
    with undisturbed(end):
        if end == "server":
            _serve()
        else:
            _ask()


def enter(end: str) -> None:
    """Move into a network namespace of this process's own, and configure the end of the link that is put there."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if libc.unshare(_CLONE_NEWNET) != 0:
        say({"error": os.strerror(ctypes.get_errno())})
        sys.exit(1)
    say({"pid": os.getpid()})
    hear()
    _tool("ip", "addr", "add", f"{ADDRESS[end]}/24", "dev", INTERFACE[end])
    # Segments go into the bucket one by one, not in bundles that have to wait for the tokens of all.
    _tool("ip", "link", "set", INTERFACE[end], "up", "gso_max_segs", "1")


@contextlib.contextmanager
def undisturbed(end: str) -> Iterator[None]:
    """A processor with priority for this end, which stays awake: waking one takes longer than a small payload.

    Where there is one processor only, both ends share it; if the kernel refuses, the end continues without it, and its
    latencies scatter more.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            if len(_PROCESSORS) > 1:
                os.sched_setaffinity(0, {_PROCESSORS[0 if end == "device" else -1]})
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
            # The kernel keeps to the latency asked for, none, as long as the file is open.
            latency = stack.enter_context(Path("/dev/cpu_dma_latency").open("wb", buffering=0))
            latency.write(struct.pack("<i", 0))
        yield


def _ask() -> None:
    bucket = hear()
    shape("add", **bucket)
    with socket.create_connection((ADDRESS["server"], PORT), timeout=600) as connection:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        say({"connected": True, "segment": connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)})
        while order := hear():
            if "rate_bps" in order:
                bucket = order
                shape("change", **bucket)
                say({"shaped": True})
            else:
                say(_request(connection, rate_bps=bucket["rate_bps"], **order))


def _serve() -> None:
    with socket.create_server((ADDRESS["server"], PORT)) as listener:
        say({"listening": True})
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer, soon = memoryview(bytearray(1 << 20)), False
        while head := _receive(connection, HEADER_BYTES, soon=soon):
            n_bytes, work_s, wants_answer = _HEADER.unpack(head)
            left = n_bytes - HEADER_BYTES
            while left:
                left -= _receive_some(connection, buffer[: min(left, len(buffer))], soon=left <= _SOON_BYTES)
            delivered_s = time.monotonic()
            if wants_answer:
                _work(delivered_s + work_s)
                connection.sendall(struct.pack("<dd", delivered_s, time.monotonic()))
            soon = not wants_answer


def _request(
    connection: socket.socket,
    *,
    rate_bps: float,
    device_s: float,
    n_bytes: int,
    server_s: float,
    idle_s: float,
    primer_bytes: int,
) -> dict[str, Any]:
    """One request: wait, keep the device busy, send, and hear when the server had it and was done.

    A primer is another payload that is sent just before: it empties the token bucket, so that a small payload has to
    wait for its bits as it would on a link without one.
    """
    sent = _payload(n_bytes, server_s, wants_answer=True)
    if primer_bytes:
        sent = _payload(primer_bytes, 0.0, wants_answer=False) + sent
    time.sleep(idle_s)
    # The server is woken a little before; by the time that it counts the bucket is full again.
    notice_s = _NOTICE_S + 8 * _NOTICE_WIRE_BYTES / rate_bps
    submitted_s = time.monotonic() + max(0.0, notice_s - device_s)
    _work(submitted_s + device_s - notice_s)
    connection.sendall(_payload(HEADER_BYTES, 0.0, wants_answer=False))
    _work(submitted_s + device_s)
    device_done_s = time.monotonic()
    connection.sendall(sent)
    # Nothing comes before this; from then on the end polls for the answer.
    select.select([connection], [], [], max(0.0, 8 * n_bytes / rate_bps + server_s - _SOON_S / 2))
    delivered_s, served_s = struct.unpack("<dd", _receive(connection, 16, soon=True))
    return {
        "submitted_s": submitted_s,
        "device_done_s": device_done_s,
        "delivered_s": delivered_s,
        "served_s": served_s,
        "answered_s": time.monotonic(),
    }


def _payload(n_bytes: int, server_s: float, *, wants_answer: bool) -> bytes:
    return _HEADER.pack(n_bytes, server_s, wants_answer) + os.urandom(n_bytes - HEADER_BYTES)


def _receive(connection: socket.socket, n_bytes: int, *, soon: bool) -> bytes:
    """So many bytes, or none if the other end is gone."""
    buffer = bytearray(n_bytes)
    missing = memoryview(buffer)
    while missing:
        received = _receive_some(connection, missing, soon=soon)
        if not received:
            return b""
        missing = missing[received:]
    return bytes(buffer)


def _receive_some(connection: socket.socket, buffer: memoryview, *, soon: bool) -> int:
    """How many bytes came into the buffer; it polls for those that are due soon."""
    until_s = time.monotonic() + _SOON_S if soon and len(_PROCESSORS) > 1 else 0.0
    while time.monotonic() < until_s:
        with contextlib.suppress(BlockingIOError):
            return connection.recv_into(buffer, 0, socket.MSG_DONTWAIT)
    return connection.recv_into(buffer)


def _work(until_s: float) -> None:
    """Wait until an instant: the scheduler may wake it late, so the last part is a busy loop."""
    while (left_s := until_s - time.monotonic()) > 0:
        if left_s > _SPIN_S:
            time.sleep(left_s - _SPIN_S)


def shape(verb: str, *, rate_bps: float, burst_bytes: int) -> None:
    """Add, or change, the token bucket of the device's end."""
    bucket = ["rate", f"{round(rate_bps)}bit", "burst", str(burst_bytes), "latency", "60s"]
    _tool("tc", "qdisc", verb, "dev", INTERFACE["device"], "root", "tbf", *bucket)


def _tool(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        say({"error": f"{' '.join(command)}: {done.stderr.strip()}"})
        sys.exit(1)


def say(message: dict[str, Any]) -> None:
    """A line of JSON to the process that started this end."""
    print(json.dumps(message), flush=True)


def hear() -> dict[str, Any]:
    """The next line of JSON from there; empty where there is none."""
    line = sys.stdin.readline()
    return json.loads(line) if line else {}


if __name__ == "__main__":
    main(sys.argv[1])
