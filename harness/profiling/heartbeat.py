"""A process of its own that beats, and so sees when the machine, or the process that it watches, stands still.

Run as a script by :class:`harness.profiling.disturbance.Watch`, with standard input as the shared file; it imports
nothing of the harness, so that it starts at once and stays small.

Every five milliseconds it writes the instant of its beat. A beat that comes late by as much again says that the machine
stood still: a virtual machine that was paused, a hypervisor that ran others. A parent that is found stopped (by a
signal, by a debugger) stood still since the beat before. Both are written as stretches into a ring that the parent
reads.

    beat u64: the instant of the last beat, ns of the monotonic clock    count u64: stretches so far
    a ring of 64 stretches: from u64, to u64, lost u64
"""

import contextlib
import ctypes
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Iterator

BEAT_NS = 5_000_000
LATE_NS = 5_000_000
"""A sleep is normally late by a fraction of a millisecond."""

RING = 64
_HEAD = struct.Struct("=QQ")
_STRETCH = struct.Struct("=QQQ")
SIZE = _HEAD.size + RING * _STRETCH.size
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Beat until the parent is gone."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # If allowed, it runs with a higher priority: it has to detect that the machine stands still, not that processors
    # are busy.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    shared = mmap.mmap(sys.stdin.fileno(), SIZE)
    state = os.open(f"/proc/{parent}/stat", os.O_RDONLY)
    count, last_ns = 0, time.monotonic_ns()
    begin_ns = ended_ns = sum_ns = 0
    while os.getppid() == parent:
        _HEAD.pack_into(shared, 0, last_ns, count)
        time.sleep(BEAT_NS * 1e-9)
        now_ns = time.monotonic_ns()
        late_ns = now_ns - last_ns - BEAT_NS
        stopped = os.pread(state, 512, 0).rpartition(b")")[2].split()[0] in (b"T", b"t")
        if stopped or late_ns > LATE_NS:
            lost_ns = now_ns - last_ns if stopped else late_ns
            if begin_ns and ended_ns == last_ns:
                # It is still stopped: the stretch is extended, so that a long one takes one place of the ring.
                count, sum_ns = count - 1, sum_ns + lost_ns
            else:
                begin_ns, sum_ns = last_ns, lost_ns
            _STRETCH.pack_into(shared, _HEAD.size + count % RING * _STRETCH.size, begin_ns, now_ns, sum_ns)
            count, ended_ns = count + 1, now_ns
        last_ns = now_ns


def last_beat_ns(shared: mmap.mmap) -> int:
    """The instant of the last beat; 0 before the first."""
    return int(_HEAD.unpack_from(shared)[0])


def stretches(shared: mmap.mmap) -> Iterator[tuple[int, int, int]]:
    """The latest stretches in which something stood still: from, to, and how long of it was lost, in ns."""
    count = _HEAD.unpack_from(shared)[1]
    for number in range(max(0, count - RING), count):
        yield _STRETCH.unpack_from(shared, _HEAD.size + number % RING * _STRETCH.size)


if __name__ == "__main__":
    main()
