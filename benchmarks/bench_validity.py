"""How often a quiet run is VALID, and a disturbed one INVALID, by the rule of ``harness.analysis.validity``.

    PYTHONPATH=. python -m benchmarks.bench_validity [--runs 20]

A run times a scheme that computes for some 20 ms a request, without any model, on six samples and in two rounds, as
``harness run`` would. It is made this many times alone, and as many times beside each of these:

- ``busy``: two spinning processes for each processor;
- ``half``: one spinning process for every two processors, so that nothing has to wait;
- ``pauses``: the process is stopped (SIGSTOP) for 20 ms, three times in a fifth of a second.

Quiet runs are meaningful only where nothing else runs: the load average is printed with them. At most one quiet run in
twenty should be INVALID, and at least nineteen of twenty of each disturbed kind: the status is 1 where one is missed.
Progress goes to standard error.
"""

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness import measure, timing
from harness.analysis import Analysis, validity
from harness.data.gathered import gather
from harness.data.questions import samples
from harness.data.sample import Sample
from harness.data.streetsqa import book
from harness.profiling.telemetry import Telemetry
from harness.records import SampleRow
from harness.runs import provenance
from harness.runs.store import Run
from harness.scenario.load import hash_of
from harness.scenario.model import Measure
from harness.schemes.contract import Clock, Payload
from harness.schemes.fake import Fake, FakeModels, FakePoint

MOST_WRONG = 0.05
"""The share of quiet runs that may be INVALID, and of disturbed ones that may be VALID."""

_SPIN = "while True: pass"
_PAUSE = """
import os, signal, sys, time
victim = os.getppid()
def end(*_):
    os.kill(victim, signal.SIGCONT)
    sys.exit()
signal.signal(signal.SIGTERM, end)
while os.getppid() == victim:
    os.kill(victim, signal.SIGSTOP)
    time.sleep(0.02)
    os.kill(victim, signal.SIGCONT)
    time.sleep(0.045)
"""

_SCHEDULE = Measure(timed_samples=6, repeats=2, warmup=2)
_SELECTION = {"reference": "server_only", "target": 0.5, "margin": 0.4, "confidence": 0.8, "resamples": 200}
_SCENARIO = {"title": "Validity", "measure": _SCHEDULE.model_dump(mode="json"), "selection": _SELECTION}


class Working(Fake):
    """The fake scheme with a device half that computes."""

    kind: ClassVar[str] = "working"

    @classmethod
    def device_half(cls, models: Any, point: Any) -> Any:
        """Multiplies matrices first."""
        fake, a_NN = Fake.device_half(models, point), np.random.default_rng(0).random((256, 256))

        def half(sample: Sample, clock: Clock) -> Payload:
            with clock.stage("merge"):
                for _ in range(20):
                    a_NN @ a_NN
            made = fake(sample, clock)
            assert isinstance(made, Payload)
            return Payload(cls.kind, made.bodies)

        return half


class Silent:
    """A reporter that shows nothing."""

    def warn(self, text: str) -> None:
        """Shows nothing."""

    def phase(self, name: str, total: int, done: int) -> None:
        """Shows nothing."""

    def advance(self) -> None:
        """Shows nothing."""


def one_run(folder: Path, plan: measure.Plan) -> tuple[list[str], float, int]:
    """Makes a run in ``folder``; returns why it is not VALID, apart from the state of the checkout.

    Also the share of its requests' time in which they waited for a processor, and how many were run again.
    """
    points: dict[str, dict[str, dict[str, object]]] = {pipeline: {point: {}} for pipeline, point in plan.halves}
    manifest = provenance.begin(
        name=folder.name, scenario=_SCENARIO, scenario_hash=hash_of(_SCENARIO), benchmarks=["StreetsQA"],
        backbone="fake", stand_ins={}, points=points, digests={}, seed=0, command=sys.argv,
        machine={"id": "0", "name": "here"},
    )  # fmt: skip
    (session,) = manifest.sessions
    clean = session.model_copy(update={"commit": "0" * 40, "dirty": False})
    with Run.open_or_create(folder, manifest.model_copy(update={"sessions": (clean,)})) as ongoing:
        ongoing.record_samples(_rows(plan))
        measure.answer(plan, ongoing, Silent())
        timing.time(
            plan,
            ongoing,
            Silent(),
            schedule=_SCHEDULE,
            seed=0,
            machines={"device": "here", "server": "here"},
            device="cpu",
            telemetry=Telemetry(),
        )
        record = ongoing.so_far()
        found = validity.reasons(Analysis(record))
        ongoing.finish(found)
    requests = validity.timed_requests(record.stages)
    again = sum(sum(session.disturbed.values()) for session in record.manifest.sessions)
    return found, float(requests["waited_s"].sum() / requests["seconds"].sum()), again


def plan_of() -> measure.Plan:
    """The schemes and samples of every run."""
    models, point = FakeModels(), FakePoint()
    halves = {
        (name, "-"): measure.Split(
            kind=kind.kind, device=kind.device_half(models, point), server=kind.server_half(models, point)
        )
        for name, kind in (("server_only", Working), ("working", Working))
    }
    pages = samples(book("test", 0)[:8], paired=False)
    gathered = gather({"StreetsQA": pages})
    return measure.Plan(
        halves=halves,
        samples=gathered,
        sample_digests=[sample.image_id + sample.id for sample in gathered],
        depends={key: {"scheme": "working"} for key in halves},
        patches=[1] * len(gathered),
    )


def _rows(plan: measure.Plan) -> Iterator[SampleRow]:
    for name in plan.samples.names:
        yield SampleRow(
            sample=name.id, benchmark=name.benchmark, id=name.own_id, picture=name.image_id, pictures=1, category="",
            group=name.group, width_px=name.width_px, height_px=name.height_px, patches=1,
            file_bytes=name.original_bytes, text_bytes=name.text_bytes,
        )  # fmt: skip


@contextlib.contextmanager
def beside(programs: Sequence[str]) -> Iterator[None]:
    """Runs a number of Python programs meanwhile."""
    running = [subprocess.Popen([sys.executable, "-I", "-S", "-c", program]) for program in programs]
    time.sleep(0.3 if running else 0.0)
    try:
        yield
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
            process.wait()


def main() -> int:
    """Prints a row for each kind; returns 1 where one of them misses its goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="runs of each kind")
    parser.add_argument("--only", default="", metavar="KINDS", help="some of quiet,busy,half,pauses")
    arguments = parser.parse_args()
    n_processors, plan = os.cpu_count() or 1, plan_of()
    kinds = {
        "quiet": [],
        "busy": [_SPIN] * (2 * n_processors),
        "half": [_SPIN] * max(1, n_processors // 2),
        "pauses": [_PAUSE],
    }
    if unknown := set(filter(None, arguments.only.split(","))) - set(kinds):
        sys.exit(f"--only {arguments.only}: {', '.join(unknown)} is not among {', '.join(kinds)}")
    head = f"{'time lost: median, most':>25}{'run again':>11}  load average, and the reasons"
    print(f"{'beside it':<10}{'runs':>6}{'INVALID':>9}{'seconds':>9}{head}")
    chosen = arguments.only.split(",") if arguments.only else list(kinds)
    done, begun, missed = 0, time.monotonic(), []
    for kind in chosen:
        told: Counter[str] = Counter()
        invalid, all_again, begin, losses = 0, 0, time.monotonic(), []
        load = os.getloadavg()[0]
        for number in range(arguments.runs):
            with tempfile.TemporaryDirectory() as folder, beside(kinds[kind]):
                found, lost, again = one_run(Path(folder) / "run", plan)
            invalid += bool(found)
            all_again += again
            losses.append(lost)
            told.update(_kind_of(reason) for reason in found)
            done += 1
            left_s = (time.monotonic() - begun) / done * (len(chosen) * arguments.runs - done)
            verdict = "INVALID" if found else "VALID"
            print(
                f"{kind}: run {number + 1} of {arguments.runs} is {verdict}; about {left_s / 60:.0f} min left of all",
                file=sys.stderr,
                flush=True,
            )
        wrong = invalid if kind == "quiet" else arguments.runs - invalid
        if wrong > MOST_WRONG * arguments.runs:
            missed.append(kind)
        reasons = ", ".join(f"{reason}: {n}" for reason, n in told.most_common())
        spent = f"{statistics.median(losses):.1%}, {max(losses):.1%}"
        print(
            f"{kind:<10}{arguments.runs:>6}{invalid:>9}{time.monotonic() - begin:>9.1f}{spent:>25}{all_again:>11}"
            f"  {load:.1f}; {reasons or 'none'}",
            flush=True,
        )
    print(f"{len(chosen) - len(missed)} of {len(chosen)} goals met" + (f"; missed: {', '.join(missed)}" * bool(missed)))
    return 1 if missed else 0


def _kind_of(reason: str) -> str:
    known = {"were disturbed": "requests disturbed", "were kept": "time lost", "some task waited": "pressure"}
    return next((name for words, name in known.items() if words in reason), reason)


if __name__ == "__main__":
    sys.exit(main())
