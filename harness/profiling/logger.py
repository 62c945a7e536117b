"""Valid stage rows from any code: an engine that is not a scheme of the harness, timed where it runs.

    with harness.record("run.parquet").request("q1", repeat=0) as r, r.stage("prefill"):
        engine.prefill(...)

The file holds :class:`harness.records.StageRow` rows, is written atomically after each request, and an existing file is
continued.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from harness.errors import ResultsError
from harness.profiling.clock import StageClock
from harness.profiling.machine import machine_name
from harness.records import Side, StageRow
from harness.runs import disk, tables
from harness.runs.digests import of_data


class Recorder:
    """Writes the stages of requests to a Parquet file; use one for many requests, because it holds the file's rows.

    ``synchronise`` waits until the accelerator is idle, such as ``torch.cuda.synchronize``. Raises ResultsError where
    the file cannot be written, or holds anything but stage rows: before anything is timed.
    """

    def __init__(self, path: Path | str, *, machine: str | None = None, synchronise: Callable[[], None] | None = None):
        self.path = Path(path)
        self._machine = machine if machine is not None else machine_name()
        self._synchronise = synchronise
        disk.check_writable(self.path)
        self._rows = tables.read("stages", self.path) if self.path.exists() else tables.table_of("stages", ())
        self._starts = 1 + max(self._rows["start"].to_pylist(), default=-1)

    @contextmanager
    def request(
        self,
        sample: str,
        *,
        repeat: int = 0,
        side: Side = "server",
        pipeline: str = "own",
        point: str = "-",
    ) -> Iterator[StageClock]:
        """Times the stages of one request; its rows are in the file when the context ends, unless an error ends it.

        Raises ResultsError for a request of the same pipeline, point, sample, repeat and side as one in the file.
        """
        run = self.path.stem
        key = (pipeline, point, sample, repeat, side)
        known = zip(*(self._rows[name].to_pylist() for name in tables.KEYS["stages"]), strict=True)
        if key in set(known):
            raise ResultsError(
                f"{self.path}: has the {side} stages of {pipeline} at {point}, sample {sample!r}, repeat {repeat} "
                "already; give the request another repeat"
            )
        clock = StageClock(self._synchronise)
        yield clock
        rows = [
            StageRow(
                run=run,
                unit=of_data([run, *key]),
                pipeline=pipeline,
                point=point,
                sample=sample,
                repeat=repeat,
                round=repeat,
                start=self._starts,
                side=side,
                stage=stage,
                seconds=seconds,
                cpu_s=clock.cpu_s[stage],
                machine=self._machine,
                source="measured",
            )
            for stage, seconds in clock.seconds.items()
        ]
        self._rows = pa.concat_tables([self._rows, tables.table_of("stages", rows)]).combine_chunks()
        disk.write_bytes(self.path, disk.parquet(self._rows))
