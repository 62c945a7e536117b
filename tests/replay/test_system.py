"""What only the SimPy system has: timeouts and servers that batch."""

from pathlib import Path

import numpy as np
import pytest

from harness.analysis.latency import PARTS, part_s, total_s
from harness.analysis.whatif import deadline_share
from harness.records import RequestRow, schema
from tests.replay.systems import drawn_profile, profile_of, replayed, spec_of

SLOW = {"kind": "constant", "rate": "1 KB/s"}


def test_a_request_times_out_wherever_it_is() -> None:
    """Three requests time out on the device, on the link and at the server: later instants are missing."""
    profile = profile_of([1000, 5000, 1000], [9.0, 0.5, 0.5], [0.1, 0.1, 9.0])
    rows = replayed(profile, spec_of(uplink=SLOW, timeout="3 s")).to_pylist()
    instants = [name for name in schema(RequestRow).names if name.endswith("_s")]
    reached = [[name for name in instants if row[name] is not None] for row in rows]
    assert reached == [instants[:2], instants[:3], instants[:6]]
    assert rows[2]["server_begun_s"] == pytest.approx(7.5)
    assert [row["submitted_s"] for row in rows] == [0.0, 3.0, 6.0]


def test_a_timeout_frees_the_device_and_the_link_but_not_the_server() -> None:
    """The next request begins at once; one that the server has begun is still finished."""
    rows = replayed(profile_of([1000, 1000], [0.0, 0.0], [9.0, 1.0]), spec_of(uplink=SLOW, timeout="3 s")).to_pylist()
    assert rows[1]["delivered_s"] == pytest.approx(4.0)
    assert rows[1]["answered_s"] is None
    rows = replayed(profile_of([9000, 1000], [0.0, 0.0], [0.0, 0.0]), spec_of(uplink=SLOW, timeout="3 s")).to_pylist()
    assert rows[1]["answered_s"] == pytest.approx(4.0)


def test_a_shared_link_gives_a_given_up_share_to_the_others(tmp_path: Path) -> None:
    """Two transfers that began 3 s before a third are given up at 6 s; it then has the link to itself, until 8 s."""
    (tmp_path / "at.csv").write_text("at_s,user\n0,0\n0,1\n3,2\n")
    arrivals = {"kind": "recorded", "path": str(tmp_path / "at.csv")}
    spec = spec_of(uplink=SLOW, sharing="processor", users=3, servers=3, timeout="6 s", arrivals=arrivals)
    rows = replayed(profile_of([3000], [0.0], [0.0]), spec)
    assert rows["answered_s"].to_pylist() == [None, None, pytest.approx(8.0)]


def test_a_timeout_that_never_strikes_changes_nothing() -> None:
    """If the timeout is long enough, the rows are those without one."""
    parts = {"arrivals": {"kind": "poisson", "rate": "1 /s"}, "users": 4, "servers": 2, "requests": 30}
    assert replayed(drawn_profile(2), spec_of(**parts, timeout="1000 s")) == replayed(
        drawn_profile(2), spec_of(**parts)
    )


def test_deadlines_count_late_and_unanswered_requests() -> None:
    """One of four is late, one times out: half meet the deadline."""
    profile = profile_of([0] * 4, [0.1, 0.6, 9.0, 0.2], [0.1] * 4)
    rows = replayed(profile, spec_of(timeout="1 s"))
    assert deadline_share(rows, 0.5).value == 0.5
    assert np.isinf(total_s(rows)).tolist() == [False, False, True, False]


BATCH = {"max_batch": 3, "window": "100 ms", "marginal": 0.25}
AT_ONCE = {"kind": "periodic", "every": "100 s", "phase": "aligned"}


def test_a_full_batch_starts_at_once_and_takes_its_members_time() -> None:
    """Three equal requests fill the batch: the longest plus a quarter of the others."""
    spec = spec_of(batching=BATCH, users=3, arrivals=AT_ONCE)
    rows = replayed(profile_of([0], [0.0], [2.0]), spec)
    assert rows["answered_s"].to_pylist() == [2.0 + 0.25 * 4.0] * 3


def test_a_batch_waits_for_its_window_and_no_longer() -> None:
    """Two requests of three wait 100 ms for the third, then go; a fourth that is too many goes in the next batch."""
    rows = replayed(profile_of([0], [0.0], [2.0]), spec_of(batching=BATCH, users=2, arrivals=AT_ONCE))
    assert rows["answered_s"].to_pylist() == pytest.approx([0.1 + 2.5] * 2)
    assert rows["server_begun_s"].to_pylist() == pytest.approx([0.1] * 2)
    assert part_s(rows, "wait") == pytest.approx([0.1] * 2), "the next waits for the batch that is being filled"
    rows = replayed(profile_of([0], [0.0], [2.0]), spec_of(batching=BATCH, users=4, arrivals=AT_ONCE))
    assert rows["answered_s"].to_pylist() == pytest.approx([3.0, 3.0, 3.0, 5.0])
    assert rows["server_begun_s"].to_pylist() == pytest.approx([0.0, 0.0, 0.0, 3.0])


def test_stages_that_do_not_run_together_run_in_turn() -> None:
    """Only the stages named gain from a batch; a batch of one gains nothing."""
    alone = {**BATCH, "max_batch": 1, "window": "0 s"}
    assert replayed(profile_of([0], [0.0], [2.0]), spec_of(batching=alone))["answered_s"].to_pylist() == [2.0]
    none_together = {**BATCH, "together": []}
    rows = replayed(profile_of([0], [0.0], [2.0]), spec_of(batching=none_together, users=3, arrivals=AT_ONCE))
    assert rows["answered_s"].to_pylist() == [6.0] * 3


def test_batches_of_one_are_the_pool_without_batching() -> None:
    """With max_batch 1 every instant is that of servers that do not batch."""
    parts = {"arrivals": {"kind": "poisson", "rate": "5 /s"}, "users": 4, "servers": 2, "requests": 50}
    batched = spec_of(**parts, batching={"max_batch": 1, "marginal": 1})
    instants = [
        replayed(drawn_profile(3), spec).column("answered_s").to_pylist() for spec in (batched, spec_of(**parts))
    ]
    assert instants[0] == pytest.approx(instants[1], abs=1e-9)


@pytest.mark.parametrize("sharing", ["own", "fifo", "processor"])
@pytest.mark.parametrize("batching", [None, BATCH])
def test_the_parts_of_every_request_add_up(sharing: str, batching: dict[str, object] | None) -> None:
    """Device, link, wait and server are not negative and add up to the total; requests of one device do not overlap."""
    parts = {"arrivals": {"kind": "poisson", "rate": "3 /s"}, "users": 4, "servers": 2, "requests": 40}
    wire = {"header": "66 B", "propagation": "20 ms", "handshake": True}
    uplink = {"kind": "constant", "rate": "200 KB/s", "wire": wire}
    answer = {"size": "100 B", "rate": "1 MB/s", "propagation": "5 ms"}
    rows = replayed(
        drawn_profile(4), spec_of(**parts, sharing=sharing, batching=batching, uplink=uplink, answer=answer)
    )
    spent = {part: part_s(rows, part) for part in PARTS}
    total = spent.pop("total")
    assert all((seconds >= 0).all() for seconds in spent.values())
    assert spent["wait"].max() > 0.01
    np.testing.assert_allclose(sum(spent.values()), total, atol=1e-9)
    for _, own in rows.to_pandas().groupby("user"):
        assert (own["device_begun_s"].to_numpy()[1:] >= own["device_done_s"].to_numpy()[:-1]).all()
