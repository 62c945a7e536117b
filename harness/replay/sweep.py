"""Every cell of a replay section: profiles x uplinks x users x seeds, over processes or a Ray cluster."""

import concurrent.futures
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from harness.cluster import connected
from harness.errors import ScenarioError, UnavailableError, unknown_name
from harness.records import RequestRow, schema
from harness.replay.cell import Cell, Simulator, replay
from harness.replay.profile import Profile
from harness.reporter import unsaid
from harness.scenario.replay import SERVER_STAGES, Replay

Job = tuple[Profile, Cell, Simulator]
Workers = int | Literal["ray"]


def cells(spec: Replay) -> Iterator[Cell]:
    """The cells of a replay section in their order: uplinks, then users, then seeds."""
    for uplink in spec.uplinks:
        for users in spec.users:
            for seed in range(spec.seeds):
                yield Cell(spec=spec, uplink=uplink, users=users, seed=seed)


def server_stages(stages: pa.Table) -> list[str]:
    """The names of the server stages in stage rows."""
    names: list[str] = pc.unique(stages["stage"].filter(pc.equal(stages["side"], "server"))).to_pylist()
    return names


def refuse_unknown_stages(spec: Replay, stages: pa.Table) -> None:
    """Raises ScenarioError where batches name a server stage that neither the harness nor the stage rows have."""
    if spec.batching is None:
        return
    known = dict.fromkeys([*SERVER_STAGES, *server_stages(stages)])
    if unknown := [name for name in spec.batching.together if name not in known]:
        raise ScenarioError(f"replay.batching.together: {unknown_name('server stage', unknown[0], known)}")


def sweep(
    profiles: Sequence[Profile],
    spec: Replay,
    *,
    workers: Workers = 1,
    simulator: Simulator = "auto",
    tell: Callable[[str], None] = unsaid,
) -> pa.Table:
    """The request rows of every profile in every cell, in the same order for any number of workers.

    ``workers`` is a number of processes, or ``ray`` for the cluster that Ray is connected to (a local one where there
    is none); its nodes need the harness, and the files of recorded links under the same paths. A cell's random streams
    depend on its seed alone, so the rows do not depend on the workers. ``tell`` is called with a line of progress.
    Raises UnavailableError if Ray is requested and not installed or not reached, and what :func:`replay` raises.
    """
    jobs = [(profile, cell, simulator) for profile in profiles for cell in cells(spec)]
    if workers == "ray":
        tables = _over_ray(jobs, tell)
    elif workers == 1 or len(jobs) < 2:
        tables = [_replayed(job) for job in jobs]
    else:
        tables = _over_processes(jobs, workers)
    return pa.concat_tables(tables) if tables else schema(RequestRow).empty_table()


def _over_processes(jobs: Sequence[Job], workers: int) -> list[pa.Table]:
    # Spawned, not forked: the caller may hold threads and locks of torch's or Arrow's.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )
    try:
        return list(pool.map(_replayed, jobs))
    finally:
        # Ctrl-C is the parent's to handle; it does not wait for cells that have not started.
        pool.shutdown(cancel_futures=True)


def _over_ray(jobs: Sequence[Job], tell: Callable[[str], None]) -> list[pa.Table]:
    with connected(tell) as ray:
        try:
            remote = ray.remote(_replayed)
            return list(ray.get([remote.remote(job) for job in jobs]))
        except ray.exceptions.RayTaskError as error:
            # The caller gets the error of the cell itself, as without Ray.
            raise error.cause from None
        except ray.exceptions.RayError as error:
            reason = str(error).partition("\n")[0]
            raise UnavailableError(f"the Ray cluster lost a replay: {reason}; repeat the command") from None


def _replayed(job: Job) -> pa.Table:
    profile, cell, simulator = job
    return replay(profile, cell, simulator=simulator)
