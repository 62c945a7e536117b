"""Logs of iperf3 in any form: what a client sent, and iperf3's own error if it could not."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness import files, units
from harness.channel import formats
from harness.channel.recording import RateRecording
from harness.errors import TraceError


def read(path: Path) -> RateRecording:
    """An iperf3 log (-J, or --json-stream) of a TCP test: what the client sent in each interval.

    Lines before and after the JSON are left out. Of a test in both directions the client's is read. A test that iperf3
    ended with an error is read up to the error, if it sent anything; the recording holds iperf3's message.
    """
    log = _log(path)
    said = f"iperf3 says: {log['error']}" if isinstance(log.get("error"), str) else ""
    try:
        test = log["start"].get("test_start", {})
        spans = list(_sent(log))
        rows = [(float(s["start"]), float(s["end"]), float(s["bytes"])) for s in spans if not s.get("omitted")]
        reverse, protocol = bool(test.get("reverse")), str(test.get("protocol", "TCP"))
        paced_bps = float(test.get("target_bitrate") or 0)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise TraceError(
            f"{path}: {said or f'is not a log of iperf3 -J with intervals: {type(error).__name__} {error}'}"
        ) from None
    if reverse:
        raise TraceError(f"{path}: was recorded with iperf3 -R, from server to client; an uplink is expected")
    if protocol != "TCP":
        raise TraceError(
            f"{path}: is of a test over {protocol}, which sends at the rate it was given, whatever arrives; "
            "record the link with TCP (without -u)"
        )
    if said:
        # An interval that was cut off filled the sender's buffer, not the link.
        whole_s = np.median([end - start for start, end, _ in rows]) if rows else 0.0
        rows = [row for row in rows if row[1] - row[0] > whole_s / 2]
    if not rows:
        raise TraceError(f"{path}: {said or 'its test has no intervals'}")
    start_s, end_s, n_bytes = np.array(rows).T
    formats.check_spans(path, start_s, end_s)
    rate_bps = 8.0 * n_bytes / (end_s - start_s)
    if paced_bps and rate_bps.max() > 0.95 * paced_bps:
        raise TraceError(
            f"{path}: sent at {units.format_rate(paced_bps)}, as requested by -b: what the link could carry is not "
            "known; record it without -b"
        )
    recording = formats.spans(path, str(path), start_s, end_s, rate_bps)
    return dataclasses.replace(recording, notes=(f"{said}; the intervals before that are used",)) if said else recording


def _log(path: Path) -> dict[str, Any]:
    """The one JSON object in a file, or what --json-stream's events make together."""
    try:
        content = files.read(path, formats.MOST_BYTES)
        text = content.decode(json.detect_encoding(content))
    except OSError as error:
        raise formats.unreadable(path, error) from None
    except UnicodeDecodeError:
        raise TraceError(f"{path}: is not text; a log of iperf3 -J is expected") from None
    try:
        found = list(_json_objects(text))
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: is not a log of iperf3 -J: {error}") from None
    if found and all("event" in part for part in found):
        parts = [(part["event"], part.get("data")) for part in found]
        of = {kind: [data for event, data in parts if event == kind] for kind in ("start", "interval", "end", "error")}
        found = [{"start": start, "intervals": of["interval"]} for start in of["start"]]
        if found and of["error"]:
            found[0]["error"] = of["error"][0]
    if len(found) != 1:
        what = "no log" if not found else f"{len(found)} logs"
        said = " ".join(line.strip() for line in text.splitlines() if line.startswith("iperf3:"))[:200]
        raise TraceError(f"{path}: holds {what} of iperf3 -J; one is expected{f'. It says {said!r}' if said else ''}")
    return found[0]


def _json_objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text that begin on lines of their own; other lines are left out."""

    def refused(constant: str) -> float:
        raise ValueError(f"{constant} is not a JSON number")

    decoder = json.JSONDecoder(object_pairs_hook=_every_sum, parse_constant=refused)
    at = 0
    while (begins := re.compile(r"^[ \t]*\{", re.MULTILINE).search(text, at)) is not None:
        found, at = decoder.raw_decode(text, begins.end() - 1)
        yield found


def _every_sum(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object with all its ``sum`` members under ``sums``: older versions of iperf3 write two for two directions."""
    found = dict(pairs)
    if "sum" in found:
        found["sums"] = [value for name, value in pairs if name == "sum"]
    return found


def _sent(log: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What the client sent in each interval, as seen by the side that wrote the log."""
    at_server = "accepted_connection" in log["start"]
    for interval in log["intervals"]:
        sums = interval["sums"]
        if len(sums) == 1 and "sum_bidir_reverse" not in interval:
            yield sums[0]
        else:
            yield next(s for s in [*sums, interval.get("sum_bidir_reverse", {})] if s.get("sender") is not at_server)
