"""From any recorder's file to recordings on disk."""

import dataclasses
import re
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from harness import files
from harness.channel import formats, iperf3, recording
from harness.channel.recording import PacketRecording, RateRecording, Recording
from harness.errors import TraceError, shown, unknown_name

_MOST_BINS = 10_000_000

Format = Literal["auto", "mahimahi", "iperf3", "csv", "cellular", "starlink"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Treatment:
    """How a recording is changed before it is written.

    ``skip_s`` drops its beginning (a test that ramps up). ``split_gap_s`` writes the parts before and after each gap of
    at least that length to separate files. ``bin_s`` turns packets into the mean rates of bins of that length.
    """

    skip_s: float = 0.0
    split_gap_s: float | None = None
    bin_s: float | None = None


def import_trace(
    source: Path,
    out: Path,
    *,
    kind: Format = "auto",
    column: str | None = None,
    layout: formats.CsvColumns | None = None,
    handover: Literal["measured", "outage"] = "measured",
    treatment: Treatment | None = None,
) -> list[Path]:
    """Write the recording in ``source`` to ``out`` (Parquet), or its parts to ``out``-00, -01 and so on.

    ``column`` chooses the uplink of a cellular file; ``layout`` the columns of a CSV. Raises TraceError for a file that
    is not a trace of an uplink, and for an option that does not apply to it.
    """
    if out.suffix != ".parquet":
        raise TraceError(f"{out}: a recording is written as Parquet; give a name that ends in .parquet")
    try:
        files.check_writable(out)
    except OSError as error:
        raise TraceError(f"{out}: cannot be written: {files.why(error)}") from None
    found = read(source, kind=kind, column=column, layout=layout, handover=handover)
    parts = treated(found, treatment or Treatment())
    paths = [out] if len(parts) == 1 else [out.with_stem(f"{out.stem}-{i:02}") for i in range(len(parts))]
    for part in parts:
        # A recording that no scenario can replay is not written.
        part.channel(loop=False, gaps="outage")
    # The folder of the original file is not recorded.
    named = [dataclasses.replace(part, source=part.source.replace(str(source), source.name)) for part in parts]
    recording.save_all(dict(zip(paths, named, strict=True)))
    return paths


def read(
    source: Path,
    *,
    kind: Format = "auto",
    column: str | None = None,
    layout: formats.CsvColumns | None = None,
    handover: Literal["measured", "outage"] = "measured",
) -> Recording:
    """The recording in a recorder's file."""
    if kind == "auto":
        kind = "csv" if layout is not None else detect(source)
    match kind:
        case "mahimahi":
            return formats.read_mahimahi(source)
        case "iperf3":
            return iperf3.read(source)
        case "starlink":
            return formats.read_rates(source, formats.STARLINK)
        case "cellular":
            if column is None:
                raise TraceError(f"{source}: holds two operators; choose ULtput_x (AT&T) or ULtput_y (Verizon)")
            return formats.read_cellular(source, column, handover=handover)
        case "csv":
            return formats.read_rates(source, layout or formats.CsvColumns())
        case _:
            raise TraceError(unknown_name("trace format", kind, get_args(Format)))


def detect(source: Path) -> Format:
    """The format of a file, from its beginning."""
    head = formats.head(source)
    if re.search(r"^[ \t]*\{", head, re.MULTILINE):
        return "iperf3"
    first = head.lstrip().partition("\n")[0]
    if "ULtput_x" in first:
        return "cellular"
    if formats.STARLINK.time in first:
        return "starlink"
    if any(delimiter in first for delimiter in ",;\t"):
        return "csv"
    if not first.strip() or first.strip().lstrip("+-").replace(".", "", 1).isdigit():
        return "mahimahi"
    if re.search(r"^\[ *ID\] Interval|^Connecting to host|^iperf3?: ", head, re.MULTILINE):
        said = next((line.strip() for line in head.splitlines() if line.startswith("iperf")), "")
        raise TraceError(f"{source}: is iperf3's output for people; record with -J{f'. It says {said!r}' * bool(said)}")
    known = ", ".join(get_args(Format)[1:])
    raise TraceError(
        f"{source}: line 1 has {shown(first.strip())}, which no known trace has; give --format, one of {known}"
    )


def treated(found: Recording, treatment: Treatment) -> list[Recording]:
    """The recording with its beginning dropped, binned and split, in this order."""
    if isinstance(found, PacketRecording):
        if treatment.bin_s is None:
            if treatment.skip_s or treatment.split_gap_s:
                raise TraceError(f"{found.source}: packets are skipped or split as rates; give the length of a bin too")
            return [found]
        found = binned(found, treatment.bin_s)
    elif treatment.bin_s is not None:
        raise TraceError(f"{found.source}: holds rates already; only packets are binned")
    rates = _between(found, treatment.skip_s, found.duration_s) if treatment.skip_s else found
    if treatment.split_gap_s is None:
        return [rates]
    return _split(rates, treatment.split_gap_s)


def binned(packets: PacketRecording, bin_s: float) -> RateRecording:
    """Packets as the mean rates of bins, so that a link can be divided among several transfers."""
    if not bin_s >= 1e-3:
        raise TraceError(f"{packets.source}: is stamped in milliseconds; a bin of {bin_s:g} s is shorter than one")
    if packets.duration_s / bin_s > _MOST_BINS:
        raise TraceError(
            f"{packets.source}: lasts {packets.duration_s:g} s, {packets.duration_s / bin_s:.3g} bins of {bin_s:g} s; "
            f"{_MOST_BINS} are the most"
        )
    n = max(1, int(np.ceil(packets.duration_s / bin_s - 1e-9)))
    at_s = np.append(np.arange(n) * bin_s, packets.duration_s)
    # A chance at the very end of a bin belongs to it: it is carried by then.
    counts = np.bincount(np.clip(np.searchsorted(at_s, packets.at_ms / 1000, side="left") - 1, 0, n - 1), minlength=n)
    return RateRecording(at_s, 8.0 * packets.packet_bytes * counts / np.diff(at_s), packets.source, packets.notes)


def _between(rates: RateRecording, start_s: float, end_s: float) -> RateRecording:
    if start_s >= rates.duration_s:
        raise TraceError(f"{rates.source}: lasts {rates.duration_s:g} s; nothing is left after the first {start_s:g} s")
    inside = (rates.at_s > start_s) & (rates.at_s < end_s)
    edges = np.concatenate([[start_s], rates.at_s[inside], [end_s]])
    first = int(np.searchsorted(rates.at_s, start_s, side="right")) - 1
    return RateRecording(edges - start_s, rates.rate_bps[first : first + len(edges) - 1], rates.source, rates.notes)


def _split(rates: RateRecording, gap_s: float) -> list[Recording]:
    long_gap = np.isnan(rates.rate_bps) & (np.diff(rates.at_s) >= gap_s)
    edges = np.flatnonzero(long_gap)
    starts, ends = np.append(0, edges + 1), np.append(edges, len(rates.rate_bps))
    parts = [_between(rates, rates.at_s[a], rates.at_s[b]) for a, b in zip(starts, ends, strict=True) if b > a]
    if not parts:
        raise TraceError(f"{rates.source}: is one gap; nothing lies between gaps of {gap_s:g} s")
    return list(parts)
