"""What was replayed: the requests of a run that has none in its folder, and the scenario of a run of recorded rows.

A reference run leaves out its largest table, because its replay section makes it again from the stage and outcome rows.
In its place is a table of digests, which shows whether and where a replay differs:

    <run>/replayed.parquet   replay, pipeline, point, channel, users, seed: a cell; first, requests: which of its rows;
                             digest: CRC-32 of their samples and instants, to the bit
"""

import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from harness.channel.channel import unreadable_files
from harness.errors import ResultsError, ScenarioError
from harness.replay import Profile, sweep
from harness.replay.sweep import server_stages
from harness.runs import disk, tables
from harness.runs.digests import of_file, of_links
from harness.runs.provenance import Manifest
from harness.scenario.load import as_given, as_written, hash_of, replay_from_given, scenario_hash
from harness.scenario.model import Scenario

REPLAYED = "replayed"
CELL = ("replay", "pipeline", "point", "channel", "users", "seed")
INSTANTS = (
    "submitted_s", "device_begun_s", "device_done_s", "sent_s", "delivered_s", "server_begun_s", "server_done_s",
    "answered_s",
)  # fmt: skip
_MOST_DIGESTS = 20_000


def requests(manifest: Manifest, folder: Path, stages: pa.Table, outcomes: pa.Table, samples: pa.Table) -> pa.Table:
    """The request rows that a run's replay section makes of its own rows; its links' files count from ``folder``.

    Raises ResultsError for a link that is absent or is not the one that the run was made with.
    """
    try:
        spec = replay_from_given(manifest.scenario, folder)
    except ScenarioError as error:
        raise ResultsError(f"{folder}: {error}") from None
    if wrong := unreadable_files(spec):
        raise ResultsError("\n".join(wrong))
    for name, found in of_links(spec.files).items():
        if (known := manifest.digests.get(name)) not in (None, found):
            raise ResultsError(
                f"{folder}: {name} is not the one that the run was made with ({known}): its digest is {found}"
            )
    pairs = stages.group_by(["pipeline", "point"], use_threads=False).aggregate([]).to_pylist()
    texts = samples if spec.question_text else None
    profiles = [Profile.from_tables(stages, outcomes, pair["pipeline"], pair["point"], samples=texts) for pair in pairs]
    parts = [(f"{profile.pipeline} {profile.point}", sweep([profile], spec)) for profile in profiles]
    return tables.merge("requests", parts)


def scenario_of(manifest: Manifest, stages: pa.Table, given: Scenario) -> Scenario | None:
    """The scenario of a run with these stage rows: ``given``, or the manifest's where it was replayed with ``given``.

    A run of recorded rows has the name and the replay section of that, and the rest of its rows' scenario. The files
    that it names count from the folder of ``given``. None where ``given`` is of another run.
    """
    if scenario_hash(given) == manifest.scenario_hash:
        return given
    plain = as_given(given)
    if (
        "measured" in pc.unique(stages["source"]).to_pylist()
        or any(plain[name] != manifest.scenario.get(name) for name in ("name", "replay"))
        or hash_of(manifest.scenario) != manifest.scenario_hash
    ):
        return None
    context = {"folder": given.folder, "stages": server_stages(stages)}
    try:
        found = Scenario.model_validate(as_written(manifest.scenario), context=context)
    except ValidationError:
        return None
    return found if scenario_hash(found) == manifest.scenario_hash else None


def digests(rows: pa.Table) -> pa.Table:
    """The digests of request rows, in their order: of each row, or of several where there are very many."""
    frame = rows.select([*CELL, "sample", *INSTANTS]).to_pandas()
    step = max(1, -(-len(frame) // _MOST_DIGESTS))
    found = []
    for cell, of_cell in frame.groupby(list(CELL), sort=False):
        names = of_cell["sample"].to_numpy(str)
        instants = np.ascontiguousarray(of_cell[list(INSTANTS)].to_numpy(np.float64))
        instants[np.isnan(instants)] = np.nan  # One NaN of the many that there are.
        for first in range(0, len(of_cell), step):
            text = "\n".join(names[first : first + step]).encode()
            digest = zlib.crc32(instants[first : first + step].tobytes(), zlib.crc32(text))
            found.append((*cell, first, len(names[first : first + step]), digest))
    return pa.Table.from_pandas(
        pd.DataFrame(found, columns=[*CELL, "first", "requests", "digest"]), preserve_index=False
    )


def recorded(folder: Path, manifest: Manifest) -> pa.Table | None:
    """The digests that a run was written with; None for one that has its requests.

    Raises ResultsError where their table is absent or is not the one that the run wrote.
    """
    if REPLAYED not in manifest.tables:
        return None
    path = folder / f"{REPLAYED}.parquet"
    if (found := of_file(path)) != (digest := manifest.tables[REPLAYED]):
        raise ResultsError(f"{path}: is damaged or was edited: its digest is {found}, and the run wrote {digest}")
    return disk.table_in(path.read_bytes())


def first_difference(was: pa.Table, now: pa.Table) -> tuple[int, int, str]:
    """How many requests there are, how many of them are among those that differ, and the first of these in words."""
    keys = [*CELL, "first", "requests"]
    both = was.to_pandas().merge(now.to_pandas(), on=keys, how="outer", suffixes=("_was", "_now"), sort=False)
    differ = both[both["digest_was"] != both["digest_now"]]
    if differ.empty:
        return int(both["requests"].sum()), 0, ""
    row = differ.iloc[0]
    place = f"request {row['first']}" if row["requests"] == 1 else f"requests {row['first']} on"
    where = f"{row['pipeline']} at {row['point']}, {row['channel']}, {row['users']} users, seed {row['seed']}, {place}"
    return int(both["requests"].sum()), int(differ["requests"].sum()), where


def differing_rows(was: pa.Table, now: pa.Table) -> tuple[int, int, str]:
    """:func:`first_difference` of two tables of requests, with the instants that differ."""
    if was.num_rows != now.num_rows:
        return was.num_rows, abs(was.num_rows - now.num_rows), f"{was.num_rows} requests were made, now {now.num_rows}"
    unequal = np.zeros(was.num_rows, bool)
    for name in (*CELL, "sample", *INSTANTS):
        same = pc.fill_null(pc.equal(was[name], now[name]), False).to_numpy(zero_copy_only=False)
        neither = pc.and_(was[name].is_null(), now[name].is_null()).to_numpy(zero_copy_only=False)
        unequal |= ~(same | neither)
    if not unequal.any():
        return was.num_rows, 0, ""
    row = int(np.argmax(unequal))
    before, after = was.slice(row, 1).to_pylist()[0], now.slice(row, 1).to_pylist()[0]
    name = next(n for n in (*CELL, "sample", *INSTANTS) if before[n] != after[n])
    where = f"{before['pipeline']} at {before['point']}, {before['channel']}, question {before['sample']}"
    return was.num_rows, int(unequal.sum()), f"{where}: {name} was {before[name]!r}, is {after[name]!r}"
