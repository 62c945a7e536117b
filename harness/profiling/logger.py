"""Valid stage rows from any code: an engine that is not a scheme of the harness, timed where it runs.

    with harness.record("run.parquet").request("q1", repeat=0) as r, r.stage("prefill"):
        engine.prefill(...)

The file holds :class:`harness.records.StageRow` rows, is written atomically after each request, and an existing file is
continued. What another recorder has written to it meanwhile is kept, such as that of a request inside this one.
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
        self._rows, self._read_at = tables.table_of("stages", ()), (0, 0)
        self._read()
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
        self._refuse_known(key)
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
        self._refuse_known(key)
        self._rows = pa.concat_tables([self._rows, tables.table_of("stages", rows)]).combine_chunks()
        disk.write_bytes(self.path, disk.parquet(self._rows))
        self._read_at = self._stamp()

    def _refuse_known(self, key: tuple[str, str, str, int, Side]) -> None:
        """Raises ResultsError for a request whose rows are in the file as it is now."""
        self._read()
        if key in set(zip(*(self._rows[name].to_pylist() for name in tables.KEYS["stages"]), strict=True)):
            pipeline, point, sample, repeat, side = key
            raise ResultsError(
                f"{self.path}: has the {side} stages of {pipeline} at {point}, sample {sample!r}, repeat {repeat} "
                "already; give the request another repeat"
            )

    def _read(self) -> None:
        """Reads the file again if it is not the one that was read or written last."""
        if (stamp := self._stamp()) != self._read_at:
            self._rows, self._read_at = tables.read("stages", self.path), stamp

    def _stamp(self) -> tuple[int, int]:
        """Which file there is: each that is written is another; zeros where there is none."""
        try:
            facts = self.path.stat()
        except FileNotFoundError:
            return 0, 0
        return facts.st_ino, facts.st_mtime_ns
