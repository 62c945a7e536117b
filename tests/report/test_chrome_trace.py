"""A timeline of a run has the Trace Event Format, and agrees with the rows."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis import Analysis
from harness.records import RequestRow, to_table
from harness.report import chrome_trace

INSTANTS = (
    "submitted_s", "device_begun_s", "device_done_s", "sent_s", "delivered_s", "server_begun_s", "server_done_s",
    "answered_s",
)  # fmt: skip


def _check(events: Sequence[dict[str, Any]]) -> None:
    """Raises where an event is not of the format, or slices of a thread neither nest nor follow each other."""
    named = {(e["name"], e["pid"], e["tid"]) for e in events if e["ph"] == "M"}
    slices = defaultdict(list)
    for event in events:
        assert event["ph"] in ("M", "X")
        assert type(event["pid"]) is type(event["tid"]) is type(event["ts"]) is int
        assert event["pid"] > 0
        assert isinstance(event["name"], str)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert event["args"]["name"]
            continue
        assert type(event["dur"]) is int
        assert event["dur"] >= 0
        assert event["ts"] >= 0
        assert ("process_name", event["pid"], 0) in named
        assert ("thread_name", event["pid"], event["tid"]) in named
        slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for of_thread in slices.values():
        open_: list[tuple[int, int]] = []
        # As a viewer does: by begin, the longer one first.
        for begun, ended in sorted(of_thread, key=lambda one: (one[0], -one[1])):
            while open_ and open_[-1][1] <= begun:
                open_.pop()
            assert not open_ or ended <= open_[-1][1], "a slice ends after its enclosing slice"
            open_.append((begun, ended))


@pytest.fixture(scope="module")
def drawn(made_up: Analysis) -> dict[str, Any]:
    """The trace of the made-up run."""
    return json.loads(chrome_trace.trace([made_up]))


@pytest.mark.slow
def test_a_trace_is_of_the_format(drawn: dict[str, Any]) -> None:
    """Phases, microseconds, names of processes and threads, slices that nest."""
    _check(drawn["traceEvents"])
    assert drawn["displayTimeUnit"] == "ms"


@pytest.mark.slow
def test_every_request_and_its_parts_are_there(made_up: Analysis, drawn: dict[str, Any]) -> None:
    """As many requests as rows of the selected points, and their parts last as long as in the rows."""
    names = {e["pid"]: e["args"]["name"] for e in drawn["traceEvents"] if e["name"] == "process_name"}
    assert all("stand-ins: StreetsQA for RealWorldQA" in name for name in names.values())
    selected = made_up.points[made_up.points["selected"]]
    chosen = dict(zip(selected["pipeline"], selected["point"], strict=True))
    for pid, name in names.items():
        if "replayed" not in name:
            continue
        pipeline = name.split(": ")[1].split(" at ")[0]
        channel = name.split(", ")[-2] if "users" in name else name.split(f"{chosen[pipeline]}, ")[1].split(",")[0]
        rows = made_up.record.requests
        mask = pc.and_(pc.equal(rows["pipeline"], pipeline), pc.equal(rows["channel"], channel))
        rows = rows.filter(pc.and_(mask, pc.equal(rows["point"], chosen[pipeline])))
        of_pid = [event for event in drawn["traceEvents"] if event["pid"] == pid and event["ph"] == "X"]
        assert sum(event["name"] == "request" for event in of_pid) == rows.num_rows
        wanted = pc.sum(pc.subtract(rows["device_done_s"], rows["device_begun_s"])).as_py()
        found = sum(event["dur"] for event in of_pid if event["name"] == "device")
        assert abs(found - 1e6 * wanted) <= 2 * rows.num_rows


@pytest.mark.slow
def test_measured_stages_have_their_source(made_up: Analysis, drawn: dict[str, Any]) -> None:
    """Each stage has its measured seconds, and their source."""
    stages = [event for event in drawn["traceEvents"] if "source" in event.get("args", {})]
    assert {event["args"]["source"] for event in stages} == {"measured", "estimated"}
    assert all(abs(event["dur"] - 1e6 * event["args"]["seconds"]) <= 1 for event in stages)
    assert {event["name"] for event in stages} >= {"vision_encode", "merge", "decode", "prefill"}


_GAPS = st.lists(st.floats(0, 3, allow_subnormal=False), min_size=8, max_size=8)


@pytest.mark.slow
@given(st.lists(st.tuples(_GAPS, st.integers(1, 8), st.integers(0, 1)), min_size=1, max_size=12))
def test_requests_that_overlap_or_are_never_answered_nest_all_the_same(
    requests: list[tuple[list[float], int, int]],
) -> None:
    """Whichever requests of a user overlap, and wherever a request timed out."""
    rows = []
    for gaps, reached, user in requests:
        at = 0.0
        instants: dict[str, Any] = {}
        for place, (name, gap) in enumerate(zip(INSTANTS, gaps, strict=True)):
            at += gap
            instants[name] = at if place < reached else None
        rows.append(
            RequestRow(
                replay="r", pipeline="tofc", point="p", sample="s", channel="c", rate_bps=None, users=2, seed=0,
                user=user, **instants,
            )
        )  # fmt: skip
    events = list(chrome_trace.replayed(1, "a", to_table(RequestRow, rows)))
    _check(events)
    told = [event["args"]["answered"] for event in events if event["name"].startswith("request")]
    assert sorted(told) == sorted(reached == 8 for _, reached, _ in requests)


@pytest.mark.slow
def test_a_long_run_is_cut_and_says_so(made_up: Analysis) -> None:
    """It has the earliest requests of each scheme at each uplink, and says how many there are."""
    record = made_up.record
    many = pa.concat_tables([record.requests] * 8)
    found = json.loads(chrome_trace.trace([Analysis(dataclasses.replace(record, requests=many))]))
    n = sum(event["name"] == "request" for event in found["traceEvents"])
    cells = sum("replayed" in e["args"]["name"] for e in found["traceEvents"] if e["name"] == "process_name")
    assert n == chrome_trace.MOST_REQUESTS * cells
    assert "the first 200 of 288 requests" in found["otherData"].values()
