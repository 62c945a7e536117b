"""Files of recorded uplinks: what is saved is loaded unchanged, and other files are refused."""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.channel import recording
from harness.channel.formats import CsvColumns
from harness.channel.importing import import_trace
from harness.channel.recording import RateRecording
from harness.errors import TraceError


def test_a_saved_recording_is_loaded_unchanged(tmp_path: Path) -> None:
    """What is saved is loaded unchanged, with gaps; the source is recorded without its folder."""
    path = tmp_path / "link.csv"
    path.write_text("time_s,rate_bps\n0,1e6\n1,2e6\n9,3e6\n")
    import_trace(path, tmp_path / "link.parquet", layout=CsvColumns(hold_s=2.0))
    found = recording.load(tmp_path / "link.parquet")
    assert isinstance(found, RateRecording)
    assert found.at_s.tolist() == [0, 1, 3, 9, 11]
    np.testing.assert_array_equal(found.rate_bps, [1e6, 2e6, np.nan, 3e6])
    assert found.source.endswith("(link.csv (rate_bps))")


def test_a_link_that_never_carries_anything_is_refused_when_opened() -> None:
    """A permanent outage is no channel: no request would ever be answered."""
    with pytest.raises(TraceError, match="never carries anything"):
        RateRecording(np.array([0.0, 1.0]), np.array([0.0]), "dead").channel(loop=True, gaps="hold")


def test_a_name_that_is_no_text_is_stored_with_escapes(tmp_path: Path) -> None:
    """A path of other bytes than UTF-8's is read, written and read again."""
    source = tmp_path / os.fsdecode(b"drive-\xff\xfe.csv")
    source.write_text("time_s,rate_bps\n0,1e6\n1,2e6\n")
    out = tmp_path / os.fsdecode(b"\xff.parquet")
    import_trace(source, out)
    assert r"drive-\udcff\udcfe.csv" in recording.load(out).source


FORGED: dict[str, Any] = {
    "no packets' size": {"kind": "packets", "version": 1, "source": "s"},
    "a size below zero": {"kind": "packets", "version": 1, "source": "s", "packet_bytes": -1500},
    "a size of none": {"kind": "packets", "version": 1, "source": "s", "packet_bytes": 0},
    "a size that is text": {"kind": "packets", "version": 1, "source": "s", "packet_bytes": "1500"},
    "a size beyond all": {"kind": "packets", "version": 1, "source": "s", "packet_bytes": 10**30},
    "another kind": {"kind": "pigeons", "version": 1, "source": "s"},
    "rates over packets": {"kind": "rates", "version": 1, "source": "s", "end_s": 1.0},
    "no source": {"kind": "packets", "version": 1, "packet_bytes": 1500},
    "another version": {"kind": "packets", "version": 2, "source": "s", "packet_bytes": 1500},
    "a list": [],
    "nothing": None,
    "a word more": {"kind": "packets", "version": 1, "source": "s", "packet_bytes": 1500, "end": 1},
}


@pytest.mark.parametrize("about", FORGED.values(), ids=FORGED)
def test_a_forged_recording_is_refused(tmp_path: Path, about: object) -> None:
    """A file's own statements are checked before they are used."""
    path = tmp_path / "forged.parquet"
    table = pa.table({"at_ms": pa.array([0, 12], pa.int64())})
    pq.write_table(table.replace_schema_metadata({b"tofc_harness.trace": json.dumps(about).encode()}), path)
    with pytest.raises(TraceError, match=re.escape(str(path))) as caught:
        recording.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "columns",
    [
        {"start_s": [0.0, None], "rate_bps": [1.0, 2.0]},
        {"start_s": [0.5, 1.0], "rate_bps": [1.0, 2.0]},
        {"start_s": [0.0, math.inf], "rate_bps": [1.0, 2.0]},
        {"start_s": [0.0, 1.0], "rate_bps": [1.0, 1e300]},
        {"start_s": [0.0, 1.0], "rate_bps": [1.0, -1.0]},
        {"start_s": [0.0, 1.0], "rate_bps": ["a", "b"]},
        {"start_s": [0, 1], "rate_bps": [1.0, 2.0]},
        {"start_s": [], "rate_bps": []},
        {"at_ms": [0, 1]},
    ],
)
def test_forged_columns_are_refused(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    """Times from 0 that increase, finite rates from 0, and their own types."""
    path = tmp_path / "forged.parquet"
    about = {"kind": "rates", "version": 1, "source": "s", "end_s": 2.0}
    pq.write_table(pa.table(columns).replace_schema_metadata({b"tofc_harness.trace": json.dumps(about).encode()}), path)
    with pytest.raises(TraceError, match=re.escape(str(path))):
        recording.load(path)
