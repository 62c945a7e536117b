"""Every cell of a replay section: profiles x uplinks x users x seeds, over processes or a Ray cluster."""

import concurrent.futures
import multiprocessing
from collections.abc import Iterator, Sequence

import pyarrow as pa

from harness.records import RequestRow, schema
from harness.replay.cell import Cell, Engine, replay
from harness.replay.profile import Profile
from harness.scenario.replay import Replay


def cells(spec: Replay) -> Iterator[Cell]:
    """The cells of a replay section in their order: uplinks, then users, then seeds."""
    for uplink in spec.uplinks:
        for users in spec.users:
            for seed in range(spec.seeds):
                yield Cell(spec=spec, uplink=uplink, users=users, seed=seed)


def sweep(profiles: Sequence[Profile], spec: Replay, *, workers: int = 1, engine: Engine = "auto") -> pa.Table:
    """The request rows of every profile in every cell, in that order whatever the number of workers."""
    jobs = [(profile, cell, engine) for profile in profiles for cell in cells(spec)]
    if workers == 1 or len(jobs) == 1:
        tables = [_replay_job(job) for job in jobs]
    else:
        # Spawned, not forked: the caller may hold threads and locks of torch's or Arrow's.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
            tables = list(pool.map(_replay_job, jobs))
    return pa.concat_tables(tables) if tables else schema(RequestRow).empty_table()


def _replay_job(job: tuple[Profile, Cell, Engine]) -> pa.Table:
    profile, cell, engine = job
    return replay(profile, cell, engine=engine)
