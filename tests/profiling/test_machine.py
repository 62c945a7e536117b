"""The machine's fingerprint."""

import json
import os

from harness.profiling.machine import fingerprint, machine_name


def test_the_fingerprint_is_plain_data_and_names_the_machine() -> None:
    """It goes into a manifest as JSON."""
    found = fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert found["threads"] == len(os.sched_getaffinity(0))
    assert found["memory_gib"] >= 1
    assert machine_name() == found["name"]
    assert str(found["cores"]) in machine_name()


def test_the_same_machine_has_the_same_id() -> None:
    """The clock's frequency at the time of asking does not make another machine."""
    first = fingerprint()["id"]
    fingerprint.cache_clear()
    assert fingerprint()["id"] == first
