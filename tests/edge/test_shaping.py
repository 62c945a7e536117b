"""Sending is shaped by the replay's own channel."""

import time
from pathlib import Path

import pytest

from harness.channel.channel import Constant
from harness.channel.importing import import_trace
from harness.edge.shaping import Shaper
from harness.errors import TraceError


def test_every_byte_is_sent_once_and_none_before_its_time() -> None:
    """The parts add up to the whole, and each is sent when the channel has carried all bytes up to its last."""
    rate_bps, before, data = 2e6, 300, bytes(range(256)) * 60
    shaper = Shaper(Constant(rate_bps), "2 Mbit/s")
    begun_s = shaper.now_s()
    sent, at_s = [], []
    for part in shaper.send(data, before):
        sent.append(part)
        at_s.append(shaper.now_s())
    assert b"".join(sent) == data
    total = before
    for part, instant_s in zip(sent, at_s, strict=True):
        total += len(part)
        assert instant_s - begun_s >= 8 * total / rate_bps - 1e-9
    assert shaper.seconds(begun_s, total) == pytest.approx(8 * total / rate_bps)


def test_a_recorded_link_paces_from_its_beginning(tmp_path: Path) -> None:
    """The seconds are the recording's: an outage at its beginning is waited for."""
    (tmp_path / "link.csv").write_text("time_s,rate_bps\n0,0\n0.2,8000000\n1,8000000\n2,8000000\n")
    import_trace(tmp_path / "link.csv", tmp_path / "link.parquet")
    begun_s = time.perf_counter()
    shaper = Shaper.of(str(tmp_path / "link.parquet"))
    assert shaper.seconds(0.0, 1000) == pytest.approx(0.201)
    assert list(shaper.send(bytes(1000), 0)) == [bytes(1000)]
    assert time.perf_counter() - begun_s >= 0.2


def test_a_shape_is_identified_by_what_it_carries(tmp_path: Path) -> None:
    """A rate however it is written, a recording by its content."""
    assert Shaper.of("25 KB/s").identity == Shaper.of("200 kbit/s").identity != Shaper.of("25.01 KB/s").identity
    for name, rate in (("a", 8000), ("b", 8000), ("c", 9000)):
        (tmp_path / "link.csv").write_text(f"time_s,rate_bps\n0,{rate}\n1,{rate}\n")
        import_trace(tmp_path / "link.csv", tmp_path / f"{name}.parquet")
    a, b, c = (Shaper.of(str(tmp_path / f"{name}.parquet")).identity for name in "abc")
    assert a == b != c


def test_what_is_no_pace_is_refused(tmp_path: Path) -> None:
    """A number without a unit, a file that is absent or no recording: one sentence."""
    with pytest.raises(TraceError, match=r"100: is neither a rate with one of the units .* nor a recorded link's file"):
        Shaper.of("100")
    (tmp_path / "notes.parquet").write_text("no link")
    with pytest.raises(TraceError, match=r"notes\.parquet"):
        Shaper.of(str(tmp_path / "notes.parquet"))
