"""The link model against a real link: TCP through a token bucket between two network namespaces (Linux, root).

Rates from 0.2 to 20 Mbit/s and payloads from 200 B to 1 MB are drawn at random, evenly in their logarithms; none was
used to build the model, and the host's two latencies are calibrated at 40 Mbit/s. Every payload is sent behind a primer
that empties the bucket, so that a small one has to wait for its bits as on any other link. The peers are the sum that
the paper uses (8 bytes / rate), and the same with headers.

    sudo python benchmarks/bench_link.py
"""

import sys

import numpy as np

from harness.errors import UnavailableError
from harness.replay import validation
from harness.replay.profile import Floats
from harness.replay.testbed import HEADER_BYTES, Testbed
from harness.replay.validation import BURST_BYTES

DRAWS, REPEATS = 80, 5
LONGEST_S = 4.0
"""Larger payloads at lower rates are left out, but for one of 1 MB at 0.5 Mbit/s: they take minutes to say little."""


def main() -> None:
    """Measure and print."""
    rng = np.random.default_rng(2026)
    rates_bps = 10 ** rng.uniform(np.log10(0.2e6), np.log10(20e6), DRAWS)
    sizes = np.round(10 ** rng.uniform(np.log10(200), 6, DRAWS)).astype(int)
    drawn = [(float(r), int(n)) for r, n in zip(rates_bps, sizes, strict=True) if 8 * n / r <= LONGEST_S]
    drawn.append((0.5e6, 1_000_000))
    rows: list[list[tuple[float, ...]]] = []
    try:
        with Testbed.open(1e6, BURST_BYTES) as bed:
            host = validation.calibrate(bed)
            wire = validation.wire_of(bed, host)
            print(f"host: {host.up_s * 1e6:.0f} us up, {host.back_s * 1e6:.0f} us back; segment {bed.segment_bytes} B")
            for rate_bps, n_bytes in drawn:
                bed.shape(rate_bps, BURST_BYTES)
                rows.append([])
                for _ in range(REPEATS if 8 * n_bytes / rate_bps < 1 else 1):
                    seen = bed.request(
                        0.0, n_bytes, 0.0, idle_s=validation.refill_s(rate_bps), primer_bytes=BURST_BYTES
                    )
                    real_s = seen["delivered_s"] - seen["device_done_s"]
                    model_s = validation.primed_link_s(seen, n_bytes, rate_bps, wire)
                    segments = -(-n_bytes // bed.segment_bytes)
                    headed_s = 8 * (n_bytes + HEADER_BYTES * segments) / rate_bps
                    rows[-1].append((real_s, model_s, 8 * n_bytes / rate_bps, headed_s))
    except UnavailableError as error:
        sys.exit(f"bench_link: {error}")
    _report("each transfer by itself", np.array([row for draw in rows for row in draw]))
    _report("each rate and payload, the median of its repeats", np.array([np.median(draw, axis=0) for draw in rows]))


def _report(what: str, rows: Floats) -> None:
    real_s, *models = rows.T
    for limit_s in (0.0, 1e-3, 5e-3):
        kept = real_s >= limit_s
        print(f"\n{what}, T_link of at least {limit_s * 1e3:g} ms: {kept.sum()}")
        print(f"  {'model':<32}{'median error':>14}{'p90':>9}{'p99':>9}{'worst, us':>11}")
        for name, model_s in zip(
            ("this model (goal 1 %, p99 3 %)", "8 bytes / rate", "with headers"), models, strict=True
        ):
            errors = np.abs(model_s - real_s)[kept] / real_s[kept]
            median, p90, p99 = np.percentile(errors, [50, 90, 99])
            worst_us = np.abs(model_s - real_s)[kept].max() * 1e6
            print(f"  {name:<32}{median:>13.2%}{p90:>10.2%}{p99:>9.2%}{worst_us:>11.0f}")


if __name__ == "__main__":
    main()
