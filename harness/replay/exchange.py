"""The two ends of a validation: a device and a server that exchange real bytes over a real, shaped TCP link.

Run as a script, ``exchange.py device|server``, by :mod:`harness.replay.testbed`, and spoken to in lines of JSON; it
imports nothing of the harness, so that it starts at once. Each end lives in a network namespace of its own that no name
refers to: it is gone, with its interface and its queue, as soon as its process is, however that ends.

Stages are emulated by waiting for the durations that were recorded. Both ends read the same monotonic clock.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import Any

PORT = 7077
ADDRESS = {"device": "10.203.77.1", "server": "10.203.77.2"}
INTERFACE = {"device": "tofc-device", "server": "tofc-server"}
HEADER_BYTES = struct.calcsize("<qd")
"""The smallest payload: its own length and the server's work travel in its first bytes."""

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_SPIN_S = 2e-3


def main(end: str) -> None:
    """Live as one end until standard input closes."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if libc.unshare(_CLONE_NEWNET) != 0:
        _say({"error": os.strerror(ctypes.get_errno())})
        return
    # What is measured is the link, not how long another process keeps the processor.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    _say({"pid": os.getpid()})
    _hear()
    _tool("ip", "addr", "add", f"{ADDRESS[end]}/24", "dev", INTERFACE[end])
    _tool("ip", "link", "set", INTERFACE[end], "up")
    if end == "server":
        _serve()
    else:
        _shape("add", **_hear())
        with socket.create_connection((ADDRESS["server"], PORT), timeout=600) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _say({"connected": True, "segment": connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)})
            while order := _hear():
                if "rate_bps" in order:
                    _shape("change", **order)
                    _say({"shaped": True})
                else:
                    _say(_request(connection, **order))


def _serve() -> None:
    with socket.create_server((ADDRESS["server"], PORT)) as listener:
        _say({"listening": True})
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray(1 << 20)
        while head := connection.recv(HEADER_BYTES, socket.MSG_WAITALL):
            n_bytes, work_s = struct.unpack("<qd", head)
            left = n_bytes - HEADER_BYTES
            while left:
                left -= connection.recv_into(buffer, min(left, len(buffer)))
            delivered_s = time.monotonic()
            _work(delivered_s + work_s)
            connection.sendall(struct.pack("<dd", delivered_s, time.monotonic()))


def _request(
    connection: socket.socket, *, device_s: float, n_bytes: int, server_s: float, idle_s: float, primer_bytes: int
) -> dict[str, Any]:
    """One request: wait, keep the device busy, send, and hear when the server had it and was done.

    A primer is another payload that is sent just before: it empties the token bucket, so that a small payload has to
    wait for its bits as it would on a link without one.
    """
    primer, payload = _payload(primer_bytes, 0.0) if primer_bytes else b"", _payload(n_bytes, server_s)
    time.sleep(idle_s)
    submitted_s = time.monotonic()
    _work(submitted_s + device_s)
    device_done_s = time.monotonic()
    connection.sendall(primer)
    connection.sendall(payload)
    if primer:
        connection.recv(16, socket.MSG_WAITALL)
    delivered_s, served_s = struct.unpack("<dd", connection.recv(16, socket.MSG_WAITALL))
    return {
        "submitted_s": submitted_s,
        "device_done_s": device_done_s,
        "delivered_s": delivered_s,
        "served_s": served_s,
        "answered_s": time.monotonic(),
    }


def _payload(n_bytes: int, server_s: float) -> bytes:
    return struct.pack("<qd", n_bytes, server_s) + os.urandom(n_bytes - HEADER_BYTES)


def _work(until_s: float) -> None:
    """Be busy until an instant: sleeping is late by a scheduler's whim, so the last of it is spun."""
    while (left_s := until_s - time.monotonic()) > 0:
        if left_s > _SPIN_S:
            time.sleep(left_s - _SPIN_S)


def _shape(verb: str, *, rate_bps: float, burst_bytes: int) -> None:
    shape = ["rate", f"{round(rate_bps)}bit", "burst", str(burst_bytes), "latency", "60s"]
    _tool("tc", "qdisc", verb, "dev", INTERFACE["device"], "root", "tbf", *shape)


def _tool(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        _say({"error": f"{' '.join(command)}: {done.stderr.strip()}"})
        sys.exit(1)


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _hear() -> dict[str, Any]:
    line = sys.stdin.readline()
    return json.loads(line) if line else {}


if __name__ == "__main__":
    main(sys.argv[1])
