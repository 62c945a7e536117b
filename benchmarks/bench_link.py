"""The link model against a real link: TCP through a token bucket between two network namespaces (Linux, root).

Rates from 0.2 to 20 Mbit/s and payloads from 200 B to 1 MB are drawn at random, evenly in their logarithms; none was
used to build the model, and the host's two latencies are calibrated on 400 bytes at 10 Mbit/s. Payloads are sent behind
a primer that empties the bucket, so that a small one has to wait for its bits as on any other link; every other repeat
of one of at least 10 kB finds the bucket full. Each is repeated for about a second, 20 times at most. The peers are the
sum that the paper uses (8 bytes / rate), and the same with headers. Other work on the machine spoils single transfers;
medians of the repeats are more robust.

    sudo python benchmarks/bench_link.py
"""

import sys

import numpy as np
import pandas as pd

from harness.channel.channel import Constant
from harness.channel.link import Link, wire_bytes
from harness.errors import UnavailableError
from harness.replay import validation
from harness.replay.testbed import Testbed
from harness.replay.validation import BURST_BYTES, PRIMER_BYTES

MODELS = ("this model (goal 1 %, p99 3 %)", "8 bytes / rate", "with headers")
DRAWS, MOST_REPEATS = 100, 20
LONGEST_S = 4.0
"""Larger payloads at lower rates are left out, but for one of 1 MB at 0.5 Mbit/s: they take minutes and add little."""


def main() -> None:
    """Measure and print."""
    rng = np.random.default_rng(2026)
    rates_bps = 10 ** rng.uniform(np.log10(0.2e6), np.log10(20e6), DRAWS)
    sizes = np.round(10 ** rng.uniform(np.log10(200), 6, DRAWS)).astype(int)
    drawn = [(float(r), int(n)) for r, n in zip(rates_bps, sizes, strict=True) if 8 * n / r <= LONGEST_S]
    drawn.append((0.5e6, 1_000_000))
    rows = []
    try:
        with Testbed.open(1e6, BURST_BYTES) as bed:
            host = validation.calibrate(bed)
            print(f"host: {host.up_s * 1e6:.0f} us up, {host.back_s * 1e6:.0f} us back; segment {bed.segment_bytes} B")
            for rate_bps, n_bytes in drawn:
                bed.shape(rate_bps, BURST_BYTES)
                for repeat in range(int(np.clip(rate_bps / (8 * n_bytes), 1, MOST_REPEATS))):
                    full = repeat % 2 == 1 and n_bytes >= 10_000
                    primer_bytes = 0 if full else PRIMER_BYTES
                    idle_s = validation.refill_s(rate_bps)
                    seen = bed.request(0.0, n_bytes, 0.0, idle_s=idle_s, primer_bytes=primer_bytes)
                    real_s = seen["delivered_s"] - seen["device_done_s"]
                    wire = validation.wire_of(bed, host, BURST_BYTES if full else 0)
                    model_s = Link(Constant(rate_bps), wire).send(0.0, n_bytes) + wire.propagation_s
                    headed_s = 8 * wire_bytes(wire, n_bytes) / rate_bps
                    rows.append((rate_bps, n_bytes, full, real_s, model_s, 8 * n_bytes / rate_bps, headed_s))
    except UnavailableError as error:
        sys.exit(f"bench_link: {error}")
    transfers = pd.DataFrame(rows, columns=["rate_bps", "n_bytes", "full", "real_s", *MODELS])
    _report("each transfer by itself", transfers)
    _report("the median of a rate's and payload's repeats", transfers.groupby(["rate_bps", "n_bytes", "full"]).median())


def _report(what: str, transfers: pd.DataFrame) -> None:
    for limit_s in (0.0, 1e-3, 5e-3):
        kept = transfers[transfers["real_s"] >= limit_s]
        print(f"\n{what}, T_link of at least {limit_s * 1e3:g} ms: {len(kept)}")
        print(f"  {'model':<32}{'median error':>14}{'p90':>9}{'p99':>9}{'worst, us':>11}")
        for model in MODELS:
            wrong_s = (kept[model] - kept["real_s"]).abs().to_numpy()
            median, p90, p99 = np.percentile(wrong_s / kept["real_s"], [50, 90, 99])
            print(f"  {model:<32}{median:>13.2%}{p90:>10.2%}{p99:>9.2%}{wrong_s.max() * 1e6:>11.0f}")


if __name__ == "__main__":
    main()
