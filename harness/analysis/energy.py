"""Joules per answer: what a half's blocks of requests took, and what they took beyond the idle blocks after them.

A block b of n_b answers took E_b in t_b seconds on a rail, the idle block after it I_b in s_b:

    gross_b = k E_b / n_b        net_b = k (E_b - I_b t_b / s_b) / n_b

k is what an external meter said over what the sensor said, 1 where none was there. Blocks are what is drawn: the mean
over B blocks has Student's interval with B - 1 degrees of freedom. What a half's requests differ by is within its
blocks, each of which holds whole passes over the same samples. Rails are never added up: one may be a part of another.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.special

from harness.analysis.latency import SOURCES
from harness.analysis.means import Estimate

MIN_BLOCKS = 3
"""Fewer blocks than these give no interval."""

SHORT_S = 30.0
"""Shorter blocks give a warning: sensors update a few times a second and average over as long."""

REPEAT_WHERE_READABLE = (
    "repeat the command that measured the run where a meter is readable, and it measures the missing energy alone"
)
"""What to do about energy that was not measured."""

COLUMNS = (
    "pipeline", "point", "side", "rail", "sensor", "blocks", "gross_j", "gross_low_j", "gross_high_j", "net_j",
    "net_low_j", "net_high_j", "calibrated", "source", "machine", "shortest_s",
)  # fmt: skip


def per_answer(
    rows: pa.Table, *, calibration: Mapping[str, float] | None = None, confidence: float = 0.95
) -> pd.DataFrame:
    """The joules of one answer, a row for each point, side and rail, in the order of the rows; columns :data:`COLUMNS`.

    ``calibration`` gives k of rails that were compared with an external meter, by side and rail (``device/VDD_IN``).
    ``net_j`` is null where a block has no idle one beside it, the intervals where there are fewer than
    :data:`MIN_BLOCKS` blocks. ``calibrated`` says whether the rail was, ``source`` is the weakest source,
    ``shortest_s`` the shortest block's seconds.
    """
    found = []
    keys = ["pipeline", "point", "side", "rail"]
    for key, blocks in rows.to_pandas().groupby(keys, sort=False):
        known = (calibration or {}).get(f"{key[2]}/{key[3]}")
        factor = 1.0 if known is None else known
        idle_j = blocks["idle_j"].astype(float) * blocks["seconds"] / blocks["idle_s"].astype(float)
        gross = mean_of_blocks((factor * blocks["energy_j"] / blocks["requests"]).tolist(), confidence)
        net = mean_of_blocks((factor * (blocks["energy_j"] - idle_j) / blocks["requests"]).tolist(), confidence)
        found.append(
            {
                **dict(zip(keys, key, strict=True)),
                "sensor": ", ".join(dict.fromkeys(blocks["sensor"])),
                "blocks": len(blocks),
                "gross_j": gross.value,
                "gross_low_j": gross.low,
                "gross_high_j": gross.high,
                "net_j": net.value,
                "net_low_j": net.low,
                "net_high_j": net.high,
                "calibrated": known is not None,
                "source": max(blocks["source"], key=SOURCES.index),
                "machine": ", ".join(dict.fromkeys(blocks["machine"])),
                "shortest_s": float(blocks["seconds"].min()),
            }
        )
    return pd.DataFrame(found, columns=list(COLUMNS))


def mean_of_blocks(values_B: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean over blocks with Student's interval; below 0 too, for what is less than idle is."""
    mean = float(np.mean(values_B))
    n = len(values_B)
    if math.isnan(mean) or n < MIN_BLOCKS:
        return Estimate(mean, math.nan, math.nan, f"{n} blocks, where {MIN_BLOCKS} are needed")
    quantile = scipy.special.stdtrit(n - 1, 0.5 + confidence / 2)
    half = float(quantile * np.std(values_B, ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half)
