"""Importing what other tools recorded: real sets, small files of every layout, and files that are not traces."""

import json
from pathlib import Path

import numpy as np
import pytest

from harness.channel import recording
from harness.channel.formats import CsvColumns
from harness.channel.importing import Treatment, binned, import_trace, read
from harness.channel.recording import PacketRecording, RateRecording
from harness.errors import TraceError

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"
real = pytest.mark.skipif(not TRACES.is_dir(), reason=f"the recorded traces are not at {TRACES}")


def _rates(path: Path, **how: object) -> RateRecording:
    found = read(path, **how)  # type: ignore[arg-type]
    assert isinstance(found, RateRecording)
    return found


def _mean_bps(path: Path) -> float:
    found = recording.load(path)
    return found.channel(loop=True, gaps="outage").bits(0, found.duration_s) / found.duration_s


@real
@pytest.mark.parametrize(("name", "mbps"), [("ATT-LTE-driving-2016.up", 1.910), ("TMobile-UMTS-driving.up", 0.943)])
def test_mahimahi_set(tmp_path: Path, name: str, mbps: float) -> None:
    """Both packet traces import with their mean rates, as packets and binned to rates."""
    import_trace(TRACES / "mahimahi" / name, tmp_path / "packets.parquet")
    import_trace(TRACES / "mahimahi" / name, tmp_path / "rates.parquet", treatment=Treatment(bin_s=0.1))
    assert _mean_bps(tmp_path / "packets.parquet") / 1e6 == pytest.approx(mbps, abs=1e-3)
    assert _mean_bps(tmp_path / "rates.parquet") / 1e6 == pytest.approx(mbps, abs=1e-3)


@real
def test_wifi_set(tmp_path: Path) -> None:
    """Every iperf3 log imports with as many bytes as its own summary states."""
    logs = sorted((TRACES / "wifi_shipyard").glob("*.json"))
    assert len(logs) == 10
    for log in logs:
        import_trace(log, tmp_path / "wifi.parquet")
        link = recording.load(tmp_path / "wifi.parquet").channel(loop=False, gaps="outage")
        sent_bytes = json.loads(log.read_text())["end"]["sum_sent"]["bytes"]
        assert link.bits(0, 1e4) / 8 == pytest.approx(sent_bytes, rel=1e-6)


@real
def test_starlink_set(tmp_path: Path) -> None:
    """The drive imports with its outages and gaps, and splits where it was interrupted for long."""
    source = TRACES / "starlink_autobahn" / "upload.csv"
    whole = _rates(source)
    assert int((whole.rate_bps == 0).sum()) == 290
    gaps_s = np.diff(whole.at_s)[np.isnan(whole.rate_bps)]
    assert gaps_s.max() == pytest.approx(2656.9, abs=0.1)
    parts = import_trace(source, tmp_path / "part.parquet", treatment=Treatment(split_gap_s=600))
    assert len(parts) == 1 + int((gaps_s >= 600).sum())
    left_out_s = gaps_s[gaps_s >= 600].sum()
    total_s = sum(recording.load(part).duration_s for part in parts)
    assert total_s == pytest.approx(whole.duration_s - left_out_s, abs=1e-6)


@real
@pytest.mark.parametrize("column", ["ULtput_x", "ULtput_y"])
def test_cellular_set(column: str) -> None:
    """All 60 runs of both operators import, between 0 and 1 Gbit/s, with times that increase."""
    runs = sorted((TRACES / "cellular_pam2025").glob("UL_*.csv"))
    assert len(runs) == 60
    for run in runs:
        found = _rates(run, column=column)
        assert 0 <= np.nanmin(found.rate_bps) <= np.nanmax(found.rate_bps) < 1e9
        assert 4 < found.duration_s < 130


@real
def test_handovers_as_outages_carry_less() -> None:
    """A run whose handovers interrupt it carries less than one whose reports average over them."""
    run = TRACES / "cellular_pam2025" / "UL_atnt_verizon_1_run_6.csv"
    measured, outage = (_rates(run, column="ULtput_x", handover=how) for how in ("measured", "outage"))
    assert measured.duration_s == outage.duration_s
    carried = [r.channel(loop=True, gaps="outage").bits(0, r.duration_s) for r in (measured, outage)]
    assert carried[1] < carried[0]


def _cellular(path: Path) -> Path:
    path.write_text(
        "TIME_STAMP_x,ULtput_x,modified_tech_x,handover_status_x,TIME_STAMP_y,ULtput_y,modified_tech_y,handover_status_y\r\n"
        "10.0,8,LTE,,10.5,1,LTE,\r\n"
        "10.5,4,LTE,,10.0,3,LTE,\r\n"
        "10.7,,LTE,Start,10.0,3,LTE,\r\n"
        "10.9,,LTE,End,,3,LTE,\r\n"
        "11.0,2,LTE,newtput,11.0,2,LTE,\r\n"
        "15.0,6,LTE,,15.0,2,LTE,\r\n"
        "15.5,6,LTE,,15.5,2,LTE,\r\n"
    )
    return path


def test_joined_operators_are_separated(tmp_path: Path) -> None:
    """The second operator's reports are put back in their own order; a pause longer than a report holds is a gap."""
    found = _rates(_cellular(tmp_path / "run.csv"), column="ULtput_y")
    np.testing.assert_allclose(found.at_s, [0, 0.5, 1.0, 3.0, 5.0, 5.5, 6.0])
    np.testing.assert_allclose(found.rate_bps, np.array([3, 1, 2, np.nan, 2, 2]) * 1e6)


def test_a_handover_is_averaged_over_or_an_outage(tmp_path: Path) -> None:
    """By default the reports stand as measured; on request nothing is sent from a handover's start to its end."""
    run = _cellular(tmp_path / "run.csv")
    assert _rates(run, column="ULtput_x").rate_bps.tolist()[:3] == [8e6, 4e6, 2e6]
    found = _rates(run, column="ULtput_x", handover="outage")
    np.testing.assert_allclose(found.at_s[:6], [0, 0.5, 0.7, 0.9, 1.0, 3.0], atol=1e-9)
    assert found.rate_bps.tolist()[:5] == [8e6, 4e6, 0.0, 4e6, 2e6]


@pytest.mark.parametrize(
    ("stamps", "said"),
    [
        (["2024-04-19 16:23:00", "noon", "2024-04-19 16:23:02"], "row 2 has 'noon' as time"),
        (["2024-04-19T16:23:00Z", "", "2024-04-19T16:23:02Z"], "row 2 has None as time"),
        (["0", "1", "noon"], "row 3 has 'noon' as time"),
        (["19/04/2024 16:23:00", "19/04/2024 16:23:01"], "row 1 has '19/04/2024 16:23:00' as time"),
    ],
)
def test_a_time_that_is_none_is_found_among_dates_and_among_numbers(
    tmp_path: Path, stamps: list[str], said: str
) -> None:
    """The row that is wrong is named, not the first date, and what a date looks like."""
    (tmp_path / "a.csv").write_text("\n".join(["time,up_mbps", *(f"{stamp},8" for stamp in stamps)]))
    with pytest.raises(TraceError, match=r"YYYY-MM-DD hh:mm:ss") as error:
        read(tmp_path / "a.csv", layout=CsvColumns(time="time", rate="up_mbps"))
    assert said in str(error.value)


def test_csv_of_time_and_rate_with_foreign_line_ends(tmp_path: Path) -> None:
    """CR/LF is fine where the content is; the last row lasts as long as the one before; the unit is in the name."""
    path = tmp_path / "link.csv"
    path.write_bytes(b"time_s,rate_mbps\r\n100,8\r\n101,0\r\n103,2\r\n")
    found = _rates(path, layout=CsvColumns(rate="rate_mbps"))
    assert found.at_s.tolist() == [0, 1, 3, 5]
    assert found.rate_bps.tolist() == [8e6, 0, 2e6]
    held = _rates(path, layout=CsvColumns(rate="rate_mbps", hold_s=1.0))
    np.testing.assert_array_equal(held.rate_bps, [8e6, 0, np.nan, 2e6])


def test_the_beginning_is_skipped(tmp_path: Path) -> None:
    """The skipped part is dropped, and time counts from the beginning of the rest."""
    path = tmp_path / "link.csv"
    path.write_text("time_s,rate_bps\n0,1e6\n1,2e6\n2,3e6\n")
    import_trace(path, tmp_path / "rest.parquet", treatment=Treatment(skip_s=1.5))
    rest = recording.load(tmp_path / "rest.parquet")
    assert isinstance(rest, RateRecording)
    assert rest.at_s.tolist() == [0, 0.5, 1.5]
    assert rest.rate_bps.tolist() == [2e6, 3e6]


BROKEN = {
    "empty": (b"", {}, "is empty"),
    "blank lines alone": (b"\n" * 100_000, {}, "is not one whole number|is empty"),
    "packets that go back": (b"1\n5\n3\n", {}, r"3 ms follows 5 ms \(row 3\)"),
    "packets before zero": (b"-4\n1\n", {}, "begins at -4 ms"),
    "packets that are text": (b"1\ntwo\n3\n", {"kind": "mahimahi"}, "two"),
    "packets with fractions": (b"1\n2.5\n", {"kind": "mahimahi"}, "2.5"),
    "times that do not increase": (b"time_s,rate_bps\n0,1\n2,1\n2,1\n", {}, "row 3 has 2 after 2"),
    "a negative rate": (b"time_s,rate_bps\n0,1\n1,-5\n2,1\n", {}, "the rate -5 bit/s in row 2"),
    "an infinite rate": (b"time_s,rate_bps\n0,1\n1,inf\n2,1\n", {}, "row 2 has no finite rate_bps"),
    "a rate that is no number": (b"time_s,rate_bps\n0,1\n1,NaN\n2,1\n", {}, "row 2 has no finite rate_bps"),
    "a rate that is text": (b"time_s,rate_bps\n0,1\n1,fast\n2,1\n", {}, "row 2 has 'fast' as rate_bps"),
    "a rate that is missing": (b"time_s,rate_bps\n0,1\n1,\n2,1\n", {}, "row 2 has no finite rate_bps"),
    "a time that is missing": (b"time_s,rate_bps\n0,1\n,5\n2,1\n", {}, "row 2 has no finite time_s"),
    "one row": (b"time_s,rate_bps\n0,1\n", {}, "two are expected"),
    "a header alone": (b"time_s,rate_bps\n", {}, "is empty"),
    "other columns": (b"when,what\n0,1\n1,1\n", {}, "no column 'time_s'; its columns are 'when, what'"),
    "a downlink": (b"time_s,DL_bps\n0,1\n1,1\n", {"layout": CsvColumns(rate="DL_bps")}, "is a downlink"),
    "no unit": (b"time_s,rate\n0,1\n1,1\n", {"layout": CsvColumns(rate="rate")}, "does not say its unit"),
    "an unknown unit": (
        b"t,r\n0,1\n1,1\n",
        {"layout": CsvColumns(time="t", rate="r", unit="Mb")},
        "'Mb' is not a unit",
    ),
    "ragged rows": (b"time_s,rate_bps\n0,1\n1\n", {}, "is not a CSV"),
    "JSON of something else": (b'{"intervals": 3}', {}, "is not a log of iperf3"),
    "JSON that ends early": (b'{"intervals": [', {}, "is not a log of iperf3"),
    "binary": (bytes(range(256)) * 50, {}, "is not|is empty"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_trace_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    """The sentence names the file and what is wrong; there is no traceback and nothing is written."""
    content, how, said = BROKEN[name]
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=said) as caught:
        import_trace(path, tmp_path / "out.parquet", **how)  # type: ignore[arg-type]
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.parquet").exists()


def test_a_folder_and_a_missing_file_are_no_traces(tmp_path: Path) -> None:
    """Both are refused by name, whether they are to be imported or replayed."""
    for path, said in ((tmp_path, "is a folder"), (tmp_path / "none.up", "cannot be read")):
        with pytest.raises(TraceError, match=said):
            import_trace(path, tmp_path / "out.parquet")
        for kind in ("mahimahi", "iperf3", "csv"):
            with pytest.raises(TraceError):
                read(path, kind=kind)
    with pytest.raises(TraceError, match="is a folder"):
        recording.load(tmp_path)
    with pytest.raises(TraceError, match=r"does not exist; 'harness trace import FILE .*none\.parquet' makes"):
        recording.load(tmp_path / "none.parquet")


def test_a_recorders_file_is_not_advised_to_be_overwritten(tmp_path: Path) -> None:
    """Where a recording is expected: the command that is named reads it and writes another."""
    (path := tmp_path / "link.csv").write_text("t_s,up_kbps\n0,100\n")
    with pytest.raises(TraceError) as caught:
        recording.load(path)
    out = path.with_suffix(".parquet")
    said = f"{path}: is not a recording; 'harness trace import {path} {out}' makes one of a recorder's file"
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("name", "bps"),
    [
        ("up_bps", 1), ("up_Mbps", 1e6), ("up_mbps", 1e6), ("up_MBps", 8e6), ("up_KBps", 8e3), ("up_Bps", 8),
        ("up_kbps", 1e3), ("up_MiBps", 8 * 2**20), ("up (MB/s)", 8e6), ("up [Mbit/s]", 1e6), ("Mbit/s", 1e6),
        ("up_MBPS", None), ("up_mbit", None), ("up", None), ("up_KBPS", None), ("mups", None),
    ],
)  # fmt: skip
def test_a_rates_unit_is_in_its_name_or_an_option(tmp_path: Path, name: str, bps: float | None) -> None:
    """A capital B is bytes; an ambiguous name is refused, and the error names the option that decides it."""
    path = tmp_path / "link.csv"
    path.write_text(f"time_s,{name}\n0,2\n1,2\n")
    if bps is None:
        with pytest.raises(TraceError, match="does not say its unit; give --unit, one of bit/s, B/s"):
            _rates(path, layout=CsvColumns(rate=name))
        assert _rates(path, layout=CsvColumns(rate=name, unit="mbps")).rate_bps[0] == 2e6
    else:
        assert _rates(path, layout=CsvColumns(rate=name)).rate_bps[0] == 2 * bps


@pytest.mark.parametrize(
    ("name", "stamps"),
    [
        ("time_s", ["0", "0.5", "1"]),
        ("time_ms", ["0", "500", "1000"]),
        ("t (us)", ["7", "500007", "1000007"]),
        ("timestamp", ["1700000000", "1700000000.5", "1700000001"]),
        ("timestamp", ["1700000000000", "1700000000500", "1700000001000"]),
        ("timestamp_ms", ["1700000000000", "1700000000500", "1700000001000"]),
        ("timestamp", ["1700000000000000000", "1700000000500000000", "1700000001000000000"]),
        ("when", ["2024-05-12T10:00:00.000Z", "2024-05-12T10:00:00.500Z", "2024-05-12T10:00:01.000Z"]),
    ],
)
def test_a_times_unit_is_in_its_name_or_in_its_size(tmp_path: Path, name: str, stamps: list[str]) -> None:
    """Seconds, milliseconds and so on by name; time since 1970 by its size; dates by their form."""
    path = tmp_path / "link.csv"
    path.write_text("".join([f"{name},up_mbps\n", *(f"{stamp},{i}\n" for i, stamp in enumerate(stamps))]))
    np.testing.assert_allclose(
        _rates(path, layout=CsvColumns(time=name, rate="up_mbps")).at_s, [0, 0.5, 1, 1.5], atol=1e-6
    )


def test_the_end_of_a_row_counts_from_where_its_beginning_does(tmp_path: Path) -> None:
    """Both are time since 1970, and the gap between two rows is one."""
    path = tmp_path / "link.csv"
    path.write_text("from_ms,to_ms,up_mbps\n1700000000000,1700000001000,1\n1700000003000,1700000004000,2\n")
    found = _rates(path, layout=CsvColumns(time="from_ms", end="to_ms", rate="up_mbps"))
    assert found.at_s.tolist() == [0, 1, 3, 4]
    np.testing.assert_array_equal(found.rate_bps, [1e6, np.nan, 2e6])


@pytest.mark.parametrize(
    ("content", "layout", "said"),
    [
        ("t,up_mbps\n0,2\n1,2\n", CsvColumns(time="t", rate="up_mbps"), "'t' does not say its unit; give --time-unit"),
        (
            "t_s,up_mbps\n1700000000000,2\n1700000001000,2\n",
            CsvColumns(time="t_s", rate="up_mbps"),
            "give --time-unit",
        ),
        (
            "t,up_mbps\n0,2\n1,2\n",
            CsvColumns(time="t", time_unit="min", rate="up_mbps"),
            "'min' is not a unit of time",
        ),
        ("t_s;up_mbps\n0;2\n1;2\n", CsvColumns(time="t_s", rate="up_mbps"), "has semicolons"),
        ("t_s,up_mbps,up_mbps\n0,2,3\n1,2,3\n", CsvColumns(time="t_s", rate="up_mbps"), "has 2 columns 'up_mbps'"),
        ("t_s,up_mbps\n0,1e300\n1,2\n", CsvColumns(time="t_s", rate="up_mbps"), "is not from 0"),
        ("t_s,up_mbps\n0,1\n1e10,2\n", CsvColumns(time="t_s", rate="up_mbps"), "ends by 1e"),
        ("t_s,up_mbps\n0,0\n1,0\n", CsvColumns(time="t_s", rate="up_mbps"), "never carries anything"),
        ("a line of text\n0,0\n", None, "line 1 has 'a line of text', which no known trace has"),
        ("Connecting to host 10.0.0.1\n[ ID] Interval\n", None, "is iperf3's output for people; record with -J"),
    ],
)
def test_an_ambiguous_csv_is_refused(tmp_path: Path, content: str, layout: CsvColumns | None, said: str) -> None:
    """Ambiguous units, separators, columns and sizes; nothing is written."""
    path = tmp_path / "link.csv"
    path.write_text(content)
    with pytest.raises(TraceError, match=said):
        import_trace(path, tmp_path / "out.parquet", layout=layout)
    assert not (tmp_path / "out.parquet").exists()


def test_spaces_around_columns_are_no_part_of_their_names(tmp_path: Path) -> None:
    """Tabs may stand for commas, too."""
    for text in ("time_s, rate_bps\n0, 1000\n1, 2000\n", "time_s\trate_bps\n0\t1000\n1\t2000\n"):
        (tmp_path / "link.csv").write_text(text)
        assert _rates(tmp_path / "link.csv").rate_bps.tolist() == [1000, 2000]


def test_mahimahi_stamps_since_1970_count_from_the_first(tmp_path: Path) -> None:
    """The recording is that of the same trace from 0, with a note; the number of bins is the same."""
    stamps = np.sort(np.random.default_rng(0).integers(0, 5000, 300))
    stamps[0] = 0
    for name, first in (("relative", 0), ("epoch", 1_700_000_000_000)):
        (tmp_path / name).write_text("".join(f"{first + at}\n" for at in stamps))
    relative, epoch = read(tmp_path / "relative"), read(tmp_path / "epoch")
    assert isinstance(relative, PacketRecording)
    assert isinstance(epoch, PacketRecording)
    np.testing.assert_array_equal(relative.at_ms, epoch.at_ms)
    assert (relative.notes, epoch.notes) == (
        (), ("its stamps are milliseconds since 1970; they count from the first, 1700000000000",)
    )  # fmt: skip
    assert len(binned(epoch, 0.1).rate_bps) == 50


@pytest.mark.parametrize(
    ("content", "bin_s", "said"),
    [
        ("900000000\n900000001\n", None, "line 1 has 900000000, and nothing is sent before"),
        ("1700000000000000\n1700000000000001\n", None, "nothing is sent before"),
        ("0\n0\n", None, "lasts no time"),
        ("0\n2000000000000\n", None, "ends by"),
        ("0\n12\n", 0.0, "a bin of 0 s is shorter than one"),
        ("0\n12\n", 1e-9, "a bin of 1e-09 s is shorter than one"),
        ("0\n999999999999\n", 0.001, "10000000 are the most"),
        ("0\n1 2\n", None, "line 2 has '1 2'"),
        ("0\n99999999999999999999\n", None, "line 2 has '99999999999999999999'"),
    ],
)
def test_packets_that_make_no_sense_are_refused(tmp_path: Path, content: str, bin_s: float | None, said: str) -> None:
    """Stamps of no known clock, and too many bins, before any memory is allocated."""
    (tmp_path / "packets").write_text(content)
    with pytest.raises(TraceError, match=said):
        import_trace(tmp_path / "packets", tmp_path / "out.parquet", kind="mahimahi", treatment=Treatment(bin_s=bin_s))
    assert list(tmp_path.glob("*.parquet")) == []


def test_a_failed_import_changes_no_file(tmp_path: Path) -> None:
    """An earlier recording of the name is unchanged; of several parts none is written if one cannot be replayed."""
    (tmp_path / "link.csv").write_text("time_s,rate_bps\n0,1e6\n1,2e6\n")
    import_trace(tmp_path / "link.csv", tmp_path / "link.parquet")
    before = (tmp_path / "link.parquet").read_bytes()
    (tmp_path / "link.csv").write_text("time_s,rate_bps\n0,1e6\n1,2e6\n100,0\n101,0\n")
    with pytest.raises(TraceError, match="never carries anything"):
        import_trace(
            tmp_path / "link.csv",
            tmp_path / "link.parquet",
            layout=CsvColumns(hold_s=1),
            treatment=Treatment(split_gap_s=5),
        )
    assert (tmp_path / "link.parquet").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.csv", "link.parquet"]


@pytest.mark.parametrize("kind", ["auto", "mahimahi", "iperf3", "csv"])
def test_a_device_is_no_trace(tmp_path: Path, kind: str) -> None:
    """A file without an end is refused before it is read."""
    with pytest.raises(TraceError, match="device, not a file"):
        import_trace(Path("/dev/zero"), tmp_path / "out.parquet", kind=kind)  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="/dev/zero: is not a recording"):
        recording.load(Path("/dev/zero"))


def test_treatments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Packets are split only as rates, rates are not binned again, and a recording is written as Parquet."""
    packets, rates = tmp_path / "a.up", tmp_path / "b.csv"
    packets.write_text("1\n2\n")
    rates.write_text("time_s,rate_bps\n0,1\n1,1\n")
    with pytest.raises(TraceError, match="length of a bin"):
        import_trace(packets, tmp_path / "o.parquet", treatment=Treatment(skip_s=1))
    with pytest.raises(TraceError, match="rates already"):
        import_trace(rates, tmp_path / "o.parquet", treatment=Treatment(bin_s=1))
    with pytest.raises(TraceError, match="nothing is left"):
        import_trace(rates, tmp_path / "o.parquet", treatment=Treatment(skip_s=100))
    with pytest.raises(TraceError, match=r"ends in \.parquet"):
        import_trace(rates, tmp_path / "o.csv")


def test_packets_are_recordings_of_whole_milliseconds(tmp_path: Path) -> None:
    """Blank lines and CR/LF in a packet trace are accepted."""
    path = tmp_path / "a.up"
    path.write_bytes(b"1\r\n\r\n1\r\n4\r\n")
    found = read(path)
    assert isinstance(found, PacketRecording)
    assert found.at_ms.tolist() == [1, 1, 4]
