"""A replay of times from a CSV: which scheme answers first at each uplink rate, without a model or a run.

    python examples/replay_csv.py [FILE.csv]

The CSV has a line for each request: ``scheme,sample,device_s,payload_bytes,server_s``. The times below are invented.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.replay import Profile, sweep
from harness.scenario.replay import Replay

TIMES = """scheme,sample,device_s,payload_bytes,server_s
features,street 1,0.210,1400,0.095
features,street 2,0.240,1900,0.101
pictures,street 1,0.012,11800,0.290
pictures,street 2,0.015,16200,0.310
"""

SYSTEM = Replay.model_validate(
    {
        "uplinks": [
            {"kind": "constant", "rate": "25 KB/s"},
            {"kind": "constant", "rate": "100 KB/s"},
            {"kind": "constant", "rate": "1 MB/s", "wire": {"propagation": "20 ms"}},
        ],
        "users": [1, 4],
        "sharing": "fifo",
    }
)
"""One user, and four who share the uplink and the server; each asks again as soon as the answer has arrived."""


def profiles(lines: Sequence[str]) -> list[Profile]:
    """Each scheme's timed requests in the CSV, a row for each; a replay draws whole rows."""
    rows = list(csv.DictReader(lines))
    found = []
    for scheme in dict.fromkeys(row["scheme"] for row in rows):
        own = sorted((row for row in rows if row["scheme"] == scheme), key=lambda row: row["sample"])
        found.append(
            Profile(
                pipeline=scheme,
                point="-",
                samples=tuple(row["sample"] for row in own),
                payload_bytes=np.array([int(row["payload_bytes"]) for row in own]),
                device_s=np.array([float(row["device_s"]) for row in own]),
                server_stages=("answer",),
                server_stage_s=np.array([[float(row["server_s"])] for row in own]),
            )
        )
    return found


def main(path: Path | None = None) -> None:
    """Print each scheme's mean latency at each uplink, for one user and for four."""
    lines = (TIMES if path is None else path.read_text(encoding="utf-8")).splitlines()
    rows = sweep(profiles(lines), SYSTEM).to_pandas()
    rows["latency_s"] = rows["answered_s"] - rows["submitted_s"]
    means = rows.pivot_table("latency_s", ["channel", "users"], "pipeline", sort=False)
    print(means.assign(first=means.idxmin(axis=1)).to_string(float_format="{:.3f} s".format))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
