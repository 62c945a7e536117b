"""Logs of iperf3 as uplinks: in any encoding, of both directions, and files that are not such logs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.channel import recording
from harness.channel.importing import import_trace, read
from harness.channel.recording import RateRecording
from harness.errors import TraceError


def _rates(path: Path) -> RateRecording:
    found = read(path)
    assert isinstance(found, RateRecording)
    return found


def _interval(second: int, n_bytes: int, *, sender: bool = True, length_s: float = 1.0) -> dict[str, object]:
    return {
        "start": float(second), "end": second + length_s, "bytes": n_bytes, "omitted": False, "sender": sender,
    }  # fmt: skip


def _log(sums: list[dict[str, object]], **test: object) -> dict[str, object]:
    started = {"test_start": {"protocol": "TCP", "reverse": 0, **test}}
    return {"start": started, "intervals": [{"sum": one} for one in sums], "end": {}}


UP = [_interval(second, 250_000 + second) for second in range(4)]
UP_BPS = [8.0 * (250_000 + second) for second in range(4)]


@pytest.mark.parametrize("order", [[True, False], [False, True]])
@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("at_server", [False, True])
def test_of_both_directions_the_clients_is_the_uplink(
    tmp_path: Path, order: list[bool], newer: bool, at_server: bool
) -> None:
    """iperf3 --bidir, of versions that write one key twice and of those that do not, as the client or server saw it."""
    intervals = []
    for second, one in enumerate(UP):
        down = {**_interval(second, 9_000_000), "sender": at_server}
        both = (
            [{**one, "sender": not at_server}, down] if order[0] or newer else [down, {**one, "sender": not at_server}]
        )
        names = ["sum", "sum_bidir_reverse" if newer else "sum"]
        members = ", ".join(f'"{name}": {json.dumps(found)}' for name, found in zip(names, both, strict=True))
        intervals.append(f"{{{members}}}")
    start = {
        "test_start": {"protocol": "TCP", "reverse": 0, "bidir": 1},
        **({"accepted_connection": {}} if at_server else {}),
    }
    path = tmp_path / "both.json"
    path.write_text(f'{{"start": {json.dumps(start)}, "intervals": [{", ".join(intervals)}], "end": {{}}}}')
    assert _rates(path).rate_bps.tolist() == UP_BPS


@pytest.mark.parametrize(
    "write",
    [
        lambda log: b"Increasing socket buffer size to 66531\n" + log,
        lambda log: log + b"\niperf3: error - unable to send control message: Broken pipe\n",
        lambda log: b"\xef\xbb\xbf" + log,
        lambda log: log.decode().encode("utf-16"),
        lambda log: json.dumps(json.loads(log), indent=1).encode(),
        lambda log: b"\n".join(
            json.dumps({"event": event, "data": data}).encode()
            for event, data in [
                ("start", json.loads(log)["start"]),
                *(("interval", interval) for interval in json.loads(log)["intervals"]),
                ("end", {}),
            ]
        ),
    ],
    ids=["a line before", "a line after", "a byte-order mark", "UTF-16", "several lines", "--json-stream"],
)
def test_a_log_is_read_however_it_was_saved(tmp_path: Path, write: Callable[[bytes], bytes]) -> None:
    """What surrounds the JSON, its encoding and its layout do not matter."""
    path = tmp_path / "log"
    path.write_bytes(write(json.dumps(_log(UP)).encode()))
    assert _rates(path).rate_bps.tolist() == UP_BPS


def test_messages_of_iperf3_are_passed_on(tmp_path: Path) -> None:
    """A failed test is refused with iperf3's message; one that was cut off is read as far as it goes, with a note."""
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"start": {}, "intervals": [], "end": {}, "error": "unable to connect: refused"}))
    with pytest.raises(TraceError, match="iperf3 says: unable to connect: refused"):
        read(path)
    cut = _log([*UP, _interval(4, 131_072, length_s=4e-5)])
    path.write_text(json.dumps({**cut, "error": "interrupt - the client has terminated"}))
    found = _rates(path)
    assert found.rate_bps.tolist() == UP_BPS
    assert "the client has terminated" in found.notes[0]
    import_trace(path, tmp_path / "log.parquet")
    assert recording.load(tmp_path / "log.parquet").notes == found.notes


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (_log(UP, protocol="UDP"), "over UDP, which sends at the rate it was given"),
        (_log(UP, target_bitrate=2_000_000), "sent at 250 KB/s, as requested by -b"),
        ([_log(UP), _log(UP)], "2 logs"),
        (_log([{**UP[0], "bytes": "many"}]), "is not a log of iperf3"),
        (_log([{**UP[0], "bytes": -1}]), "is not from 0"),
        (_log([{**UP[0], "end": 0.0}]), "ends before it begins"),
        ({"start": {"test_start": {}}, "intervals": [[]]}, "is not a log of iperf3"),
        ({"start": [], "intervals": []}, "is not a log of iperf3"),
    ],
)
def test_a_log_of_something_else_is_refused(tmp_path: Path, log: object, said: str) -> None:
    """Offered rates are not capacity, two tests are not one, and nonsense is refused."""
    path = tmp_path / "log.json"
    path.write_text("\n".join(json.dumps(one) for one in (log if isinstance(log, list) else [log])))
    with pytest.raises(TraceError, match=said):
        read(path)


def test_a_paced_test_that_was_slower_than_its_pace_measured_the_link(tmp_path: Path) -> None:
    """Set to send ten times what the link carries, iperf3 -b sends what the link carries."""
    path = tmp_path / "log.json"
    path.write_text(json.dumps(_log(UP, target_bitrate=20_000_000)))
    assert _rates(path).rate_bps.tolist() == UP_BPS


def test_a_server_that_sends_is_no_uplink(tmp_path: Path) -> None:
    """A log of iperf3 -R is refused."""
    interval = {"sum": {"start": 0, "end": 1, "bytes": 1000, "omitted": False}}
    log = {"start": {"test_start": {"reverse": 1}}, "intervals": [interval]}
    (tmp_path / "down.json").write_text(json.dumps(log))
    with pytest.raises(TraceError, match="from server to client"):
        read(tmp_path / "down.json")
