"""How far the replay is from a real link: the same requests through both, stage by stage.

The real side waits for the recorded durations and sends real bytes over TCP through a token bucket, which a primer
empties before each payload. The replayed side is the SimPy system with the wire as it is known beforehand (headers and
segments) and two latencies of the host, calibrated on payloads of one size at one rate, which are no part of the
comparison. The host's own scatter is measured by repeating one exchange among the requests: no replay can be closer to
single requests than that, so T_link's errors within it do not fail this one if they average out, and are reported.
Repeats are compared with their own median: no error of a replay can hide in their scatter.
"""

import dataclasses
import statistics
from collections.abc import Iterator

import numpy as np
import pandas as pd

from harness.channel.channel import Constant
from harness.channel.link import wire_bytes
from harness.replay.exchange import HEADER_BYTES as SMALLEST_BYTES
from harness.replay.profile import Floats, Ints, Profile
from harness.replay.system import System
from harness.replay.testbed import HEADER_BYTES, Testbed
from harness.replay.workload import Workload
from harness.scenario.replay import AnswerLink, ClosedLoop, ConstantUplink, Replay, Wire

PRIMER_BYTES = 2 * 1448
"""A payload of two full segments."""

BURST_BYTES = PRIMER_BYTES + 2 * HEADER_BYTES
"""A bucket that the primer empties to the byte. It has room for one segment more than has to pass at a time: so much
later than it should a timer of the kernel may let a segment through, and nothing of the rate is lost."""

LINK_MEDIAN, LINK_P99, STAGE_MEAN = 0.01, 0.03, 0.02
"""The verdict's limits: the median and the 99th percentile of T_link's relative errors, request by request, and the
relative error of each stage's mean."""

_CALIBRATION_BYTES, _CALIBRATION_BPS = 400, 10e6
"""A payload that is under way for 0.4 ms: its latency is as those of the small payloads, for which it matters."""

_CALIBRATION_WORK_S = 0.02
"""An answer takes longer after work than without any: what it needs has left the processor's caches."""
_MOST_WORK_S = 0.1
"""For the same reason a calibration has stages as long as the requests', up to this: longer ones only take time."""
_SCATTER_LINK_S = 5e-3
"""A longer transfer is exposed to the host for longer. Repeats take as long as a small payload, for which it matters,
and no longer, so that a large one is excused no more."""
_REPEATS = 100
"""The fewest that have a 99th percentile."""

_CLOCK_S = 1e-6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the machine adds to a transfer: seconds from send() to the other end's recv(), with the payload and back.

    ``scatter_s`` are the median and the 99th percentile of how far T_link is from its own median where one exchange is
    repeated.
    """

    up_s: float
    back_s: float
    scatter_s: tuple[float, float] = (0.0, 0.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Validation:
    """Real and replayed durations of the same N requests: (N,) arrays by stage (device, link, server, total)."""

    rate_bps: float
    host: Host
    real_s: dict[str, Floats]
    replayed_s: dict[str, Floats]

    def by_stage(self) -> dict[str, dict[str, float]]:
        """Mean and percentiles of both sides in seconds, the mean's relative error, and the requests' errors."""
        stages = {}
        for stage, real in self.real_s.items():
            replayed = self.replayed_s[stage]
            row: dict[str, float] = {}
            for name, values in (("real", real), ("replayed", replayed)):
                row[f"{name}_mean_s"] = float(values.mean())
                row |= {f"{name}_p{q}_s": float(np.percentile(values, q, method="inverted_cdf")) for q in (50, 90, 99)}
            # A scheme without device stages has no error there except the clock's microsecond.
            errors = np.abs(replayed - real) / np.maximum(real, _CLOCK_S)
            row["mean_error"] = float((replayed.mean() - real.mean()) / max(real.mean(), _CLOCK_S))
            row["median_request_error"] = float(np.median(errors))
            row["p99_request_error"] = float(np.percentile(errors, 99))
            stages[stage] = row
        return stages

    def shortfalls(self) -> list[str]:
        """Every limit that was missed, and by what; none is a pass. Those in :meth:`excused` are not among them."""
        missed = [
            f"the mean of {stage} is off by {row['mean_error']:+.1%} (limit {STAGE_MEAN:.0%})"
            for stage, row in self.by_stage().items()
            if abs(row["mean_error"]) > STAGE_MEAN and row["replayed_mean_s"] > 0
        ]
        return [*missed, *(sentence for sentence, excused in self._link_misses() if not excused)]

    def excused(self) -> list[str]:
        """Every limit of T_link that holds without the requests that are off by no more than the host scatters.

        There is none where the mean of T_link misses its own limit: what a host scatters averages out, and what a wrong
        replay adds does not.
        """
        return [sentence for sentence, excused in self._link_misses() if excused]

    def _link_misses(self) -> Iterator[tuple[str, bool]]:
        link, real_s = self.by_stage()["link"], self.real_s["link"]
        error_s = np.abs(self.replayed_s["link"] - real_s)
        errors = error_s / np.maximum(real_s, _CLOCK_S)
        limits = (("median", 50, LINK_MEDIAN), ("p99", 99, LINK_P99))
        for (name, q, limit), scatter_s in zip(limits, self.host.scatter_s, strict=True):
            if (error := link[f"{name}_request_error"]) > limit:
                beyond = error_s > scatter_s
                # Not interpolated: between a request that counts and one that does not there is nothing.
                rest = float(np.percentile(np.where(beyond, errors, 0.0), q, method="higher"))
                over = errors > limit
                yield (
                    f"the {name} error of T_link is {error:.2%} (limit {limit:.0%}): {over.sum()} of {len(over)} "
                    f"requests are off by more, {(over & beyond).sum()} of these by more than the host's own {name} of "
                    f"{1e6 * scatter_s:.0f} us",
                    rest <= limit and abs(link["mean_error"]) <= STAGE_MEAN,
                )


def validate(profile: Profile, *, rate_bps: float, requests: int, seed: int = 0) -> Validation:
    """Send ``requests`` requests drawn from ``profile`` over a real link of ``rate_bps``, and replay them.

    Raises UnavailableError if no real link can be made.
    """
    rows = profile.draw(requests, np.random.default_rng(seed))
    # A payload carries at least its own length; a scheme that sends nothing has no link to validate.
    n_bytes = np.maximum(profile.payload_bytes, SMALLEST_BYTES)
    profile = dataclasses.replace(profile, payload_bytes=n_bytes)
    idle_s = refill_s(rate_bps)
    device_s, server_s = (min(_MOST_WORK_S, float(np.median(s[rows]))) for s in (profile.device_s, profile.server_s))
    with Testbed.open(rate_bps, BURST_BYTES) as bed:
        host = calibrate(bed, device_s=device_s, server_s=server_s)
        bed.shape(rate_bps, BURST_BYTES)
        repeated_bytes = max(SMALLEST_BYTES, int(min(np.median(n_bytes[rows]), rate_bps * _SCATTER_LINK_S / 8)))
        requests_seen, repeats_seen = [], []
        for row in rows.tolist():
            work = (profile.device_s[row], int(n_bytes[row]), profile.server_s[row])
            requests_seen.append(bed.request(*work, idle_s=idle_s, primer_bytes=PRIMER_BYTES))
            # In between, so that changes on the host affect both alike.
            for _ in range(-(-_REPEATS // requests)):
                work = (device_s, repeated_bytes, server_s)
                repeats_seen.append(bed.request(*work, idle_s=idle_s, primer_bytes=PRIMER_BYTES))
        seen = pd.DataFrame(requests_seen)
        host = dataclasses.replace(host, scatter_s=_scatter_s(pd.DataFrame(repeats_seen)))
        wire = wire_of(bed, host)
    real_s = {
        "device": (seen["device_done_s"] - seen["submitted_s"]).to_numpy(),
        "link": _link_s(seen),
        "server": (seen["served_s"] - seen["delivered_s"]).to_numpy(),
        "total": (seen["answered_s"] - seen["submitted_s"]).to_numpy(),
    }
    return Validation(
        rate_bps=rate_bps, host=host, real_s=real_s, replayed_s=_replayed(profile, rows, rate_bps, wire, host, idle_s)
    )


def calibrate(
    bed: Testbed, exchanges: int = 100, *, device_s: float = 0.0, server_s: float = _CALIBRATION_WORK_S
) -> Host:
    """The host's latencies: medians over one payload at one rate, less what the link itself takes for it.

    ``device_s`` and ``server_s`` are how long the stages before the payload and before the answer take. The link's rate
    is changed by this.
    """
    bed.shape(_CALIBRATION_BPS, BURST_BYTES)
    idle_s = refill_s(_CALIBRATION_BPS)
    seen = [
        bed.request(device_s, _CALIBRATION_BYTES, server_s, idle_s=idle_s, primer_bytes=PRIMER_BYTES)
        for _ in range(exchanges)
    ]
    nothing = Host(up_s=0.0, back_s=0.0)
    link_s = 8 * wire_bytes(wire_of(bed, nothing), _CALIBRATION_BYTES) / _CALIBRATION_BPS
    up_s = statistics.median(s["delivered_s"] - s["device_done_s"] for s in seen) - link_s
    return Host(up_s=max(0.0, up_s), back_s=statistics.median(s["answered_s"] - s["served_s"] for s in seen))


def _scatter_s(repeats: pd.DataFrame) -> tuple[float, float]:
    link_s = _link_s(repeats)
    off_s = np.abs(link_s - np.median(link_s))
    return float(np.median(off_s)), float(np.percentile(off_s, 99))


def _link_s(seen: pd.DataFrame) -> Floats:
    """T_link of requests over a real link: the payload's way there and the answer's way back."""
    return (seen["delivered_s"] - seen["device_done_s"] + seen["answered_s"] - seen["served_s"]).to_numpy()


def wire_of(bed: Testbed, host: Host, burst_bytes: int = 0) -> Wire:
    """The wire model of a testbed whose bucket holds ``burst_bytes`` when a payload is ready."""
    return Wire.model_construct(
        header_bytes=HEADER_BYTES, segment_bytes=bed.segment_bytes, burst_bytes=burst_bytes, propagation_s=host.up_s
    )


def refill_s(rate_bps: float) -> float:
    """A pause after which the bucket is full again."""
    return 0.005 + 1.1 * 8 * BURST_BYTES / rate_bps


def _replayed(
    profile: Profile, rows: Ints, rate_bps: float, wire: Wire, host: Host, idle_s: float
) -> dict[str, Floats]:
    uplink = ConstantUplink.model_construct(kind="constant", rate_bps=rate_bps, name="", wire=wire)
    spec = Replay.model_construct(
        uplinks=(uplink,),
        arrivals=ClosedLoop.model_construct(kind="closed_loop", think_s=idle_s),
        answer=AnswerLink.model_construct(propagation_s=host.back_s),
    )
    load = Workload(first=np.array([0, len(rows)]), row=rows, submitted_s=None)
    seen = System(profile, load, spec, wire, [Constant(rate_bps)]).run()
    # One request at a time: it waits for nothing, and the parts are those of harness.analysis.latency.
    return {
        "device": seen.device_done_s - seen.device_begun_s,
        "link": (seen.delivered_s - seen.device_done_s) + (seen.answered_s - seen.server_done_s),
        "server": seen.server_done_s - seen.server_begun_s,
        "total": seen.answered_s - seen.submitted_s,
    }
