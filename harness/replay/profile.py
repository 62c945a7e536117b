"""What one pipeline at one operating point was measured to do: the durations and bytes that a replay draws from.

Shapes: R timed requests (a sample and a repeat each), G server stages.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from harness.errors import ResultsError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profile:
    """The timed requests of one pipeline at one point, ordered by sample and repeat.

    A replay draws whole rows, never a mean and never a column by itself: a large payload stays with its slow encoding
    and its long prefill.
    """

    pipeline: str
    point: str
    samples: tuple[str, ...]
    """R names; the repeats of a sample are adjacent."""
    payload_bytes: Ints
    """(R,), what crosses the link: with the question's text where that is counted."""
    device_s: Floats
    """(R,), the sum of the device stages."""
    server_stages: tuple[str, ...]
    """G names."""
    server_stage_s: Floats
    """(R, G), zero where a request had no such stage."""
    start: Ints | None = None
    """(R,), in which start of the process each request was timed; all in one where it is not known."""

    @property
    def server_s(self) -> Floats:
        """(R,), the sum of the server stages."""
        return np.asarray(self.server_stage_s.sum(axis=1))

    @property
    def stays(self) -> Bools:
        """(R,), whether the device answers: nothing is sent, and the server has nothing to do."""
        return np.asarray((self.payload_bytes == 0) & (self.server_s == 0))

    @classmethod
    def from_tables(
        cls, stages: pa.Table, outcomes: pa.Table, pipeline: str, point: str, *, samples: pa.Table | None = None
    ) -> Self:
        """The profile in stage rows and outcome rows.

        Samples that were answered but not timed are left out: a request draws among the timed ones, with their bytes.
        With ``samples`` the text of each question is sent too (:func:`sent_bytes`).
        Raises ResultsError for a point without stage rows, where a timed sample has no outcome, and where a request was
        timed on one side only: no stage on a side is believed of a scheme that has none there in any request, and of
        the server where nothing was sent.
        """
        timed = _rows_of(stages, pipeline, point)
        answered = _rows_of(outcomes, pipeline, point)
        where = f"{pipeline} at {point!r}"
        if not timed.num_rows:
            raise ResultsError(f"{where} has no stage rows; measure it before it is replayed")
        payload = dict(zip(*(answered[name].to_pylist() for name in ("sample", "payload_bytes")), strict=True))
        names = sorted(pc.unique(timed["sample"]).to_pylist())
        if missing := [name for name in names if name not in payload]:
            raise ResultsError(f"{where}: sample {missing[0]!r} was timed but has no outcome row")
        # Requests are numbered by sample and repeat; each row belongs to one of them.
        sample_row = pc.index_in(timed["sample"], pa.array(names, pa.string())).to_numpy()
        repeat_row = timed["repeat"].to_numpy()
        first = int(repeat_row.min())
        several = int(repeat_row.max()) - first + 1
        code_R, request_row = np.unique(sample_row * several + repeat_row - first, return_inverse=True)
        asked = [names[place] for place in (code_R // several).tolist()]
        payload_bytes = sent_bytes(asked, np.array([payload[name] for name in asked], np.int64), samples)
        seconds_row = timed["seconds"].to_numpy()
        on_server_row = pc.equal(timed["side"], "server").to_numpy(zero_copy_only=False)
        counts = [np.bincount(request_row[side], minlength=code_R.size) for side in (~on_server_row, on_server_row)]
        keys = list(zip(asked, (code_R % several + first).tolist(), strict=True))
        _refuse_one_sided(where, keys, payload_bytes, counts[0] > 0, counts[1] > 0)
        of_server = timed["stage"].filter(pa.array(on_server_row))
        stages_G = tuple(pc.unique(of_server).to_pylist())
        server_stage_s = np.zeros((code_R.size, len(stages_G)))
        start_R = np.full(code_R.size, np.iinfo(np.int64).max)
        np.minimum.at(start_R, request_row, timed["start"].to_numpy())
        if stages_G:
            stage_row = pc.index_in(of_server, pa.array(stages_G, pa.string())).to_numpy()
            np.add.at(server_stage_s, (request_row[on_server_row], stage_row), seconds_row[on_server_row])
        return cls(
            pipeline=pipeline,
            point=point,
            samples=tuple(asked),
            payload_bytes=payload_bytes,
            device_s=np.asarray(
                np.bincount(request_row[~on_server_row], seconds_row[~on_server_row], minlength=code_R.size), np.float64
            ),
            server_stages=stages_G,
            server_stage_s=server_stage_s,
            start=start_R,
        )

    def draw(self, n: int, rng: np.random.Generator) -> Ints:
        """``n`` rows: a sample with equal chances, then one of its repeats.

        Profiles of the same samples draw the same samples from the same generator, so that schemes face the same
        questions in the same order.
        """
        names = np.asarray(self.samples)
        first = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
        repeats = np.diff(np.r_[first, len(names)])
        u, v = rng.random((2, n))
        sample = (u * len(first)).astype(np.int64)
        return np.asarray(first[sample] + (v * repeats[sample]).astype(np.int64))


def sent_bytes(asked: Iterable[str], payload_bytes: Ints, samples: pa.Table | None) -> Ints:
    """What each request sends: its payload, and with ``samples`` the text of its question, where it sends anything.

    ``asked`` names the requests' samples. Raises ResultsError for a sample that ``samples`` lacks.
    """
    if samples is None:
        return payload_bytes
    text_bytes = dict(zip(samples["sample"].to_pylist(), samples["text_bytes"].to_pylist(), strict=True))
    if missing := [sample for sample in asked if sample not in text_bytes]:
        raise ResultsError(f"sample {missing[0]!r} was asked and is not among the samples of the run")
    text_R = np.array([text_bytes[sample] for sample in asked], np.int64)
    return np.where(payload_bytes > 0, payload_bytes + text_R, 0)


def _rows_of(table: pa.Table, pipeline: str, point: str) -> pa.Table:
    return table.filter(pc.and_(pc.equal(table["pipeline"], pipeline), pc.equal(table["point"], point)))


def _refuse_one_sided(
    where: str, keys: Sequence[tuple[str, int]], payload_bytes: Ints, on_device: Bools, on_server: Bools
) -> None:
    """Raises ResultsError for a timed request without the stages of a side that it must have had."""
    served = {sample for (sample, _), served in zip(keys, on_server.tolist(), strict=True) if served}
    other_repeat = np.array([sample in served for sample, _ in keys])
    for side, lacks, why in (
        ("device", ~on_device & on_device.any(), "others of this point have some"),
        ("server", ~on_server & (payload_bytes > 0), "it sent {n_bytes} bytes"),
        ("server", ~on_server & other_repeat, "its other repeats have some"),
    ):
        if lacks.any():
            row = int(np.argmax(lacks))
            sample, repeat = keys[row]
            raise ResultsError(
                f"{where}: sample {sample!r}, repeat {repeat}, has no {side} stage, though "
                f"{why.format(n_bytes=payload_bytes[row])}: the {side} side of that request is missing; a request "
                "timed on one side only cannot be replayed"
            )
