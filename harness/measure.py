"""Runs the schemes: what they answer and how many bytes they send, then how long their stages take.

Two passes, because they want opposite things. Answers want every sample and no waste: the questions about one picture
share its payload, which changes no answer. Times want one request after the other, as a user would send them.

    schemes maps (pipeline, point) to the scheme at that operating point
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from harness.data.gathered import Gathered
from harness.data.sample import Sample
from harness.data.scoring import judge
from harness.profiling.clock import StageClock, Untimed, synchroniser
from harness.profiling.telemetry import Telemetry
from harness.profiling.workers import spread
from harness.records import OutcomeRow, StageRow
from harness.runs.store import Run
from harness.scenario.model import Measure
from harness.schemes.contract import Answer, Payload, Pipeline, stage_sides

Schemes = Mapping[tuple[str, str], Pipeline]

_IMAGES_A_UNIT = 10
"""Images whose answers land together: a killed run loses the work on fewer than these."""


class Reporter(Protocol):
    """Shows a reader how far the work is."""

    def warn(self, text: str) -> None:
        """Shows what must be known before a number is read."""
        ...

    def phase(self, name: str, total: int, done: int) -> None:
        """Begins a phase of ``total`` steps, ``done`` of which an earlier process did."""
        ...

    def advance(self) -> None:
        """One step of the phase is done."""
        ...


def answer(schemes: Schemes, samples: Gathered, ongoing: Run, reporter: Reporter, *, workers: int = 1) -> None:
    """Lets every scheme answer every sample, in ``workers`` processes, and lands an outcome row for each.

    Units that an earlier process finished are left as they are.
    """
    images = list(_by_image(samples).values())
    chunks = [images[start : start + _IMAGES_A_UNIT] for start in range(0, len(images), _IMAGES_A_UNIT)]
    units = {
        f"answers {pipeline} {point} {number:04d}": (pipeline, point, chunk)
        for (pipeline, point), (number, chunk) in itertools.product(schemes, enumerate(chunks))
    }
    name = ongoing.manifest.name

    def outcomes(unit: str) -> list[OutcomeRow]:
        pipeline, point, chunk = units[unit]
        scheme = schemes[pipeline, point]
        return [
            row
            for places in chunk
            for row in _outcomes(scheme, [samples[p] for p in places], run=name, pipeline=pipeline, point=point)
        ]

    for unit, rows in spread(outcomes, list(_pending("answers", units, ongoing, reporter)), workers):
        ongoing.add(unit, outcomes=rows)
        reporter.advance()


def time(
    schemes: Schemes,
    samples: Gathered,
    ongoing: Run,
    reporter: Reporter,
    *,
    plan: Measure,
    seed: int,
    machine: str,
    device: str,
    telemetry: Telemetry,
) -> None:
    """Times every scheme on ``plan.timed_samples`` samples, in ``plan.repeats`` rounds, and lands a row for each stage.

    In a round every scheme takes its turn on a sample before the next sample comes, in an order drawn anew each time,
    so that drift hits all alike; ``telemetry`` watches the clocks meanwhile. Whenever the work begins or is taken up,
    ``plan.warmup`` requests a scheme are run and dropped.
    """
    timed = _timed_samples(samples, plan.timed_samples)
    units = {
        f"times {repeat:03d} {number:04d}": (repeat, number, sample)
        for repeat, (number, sample) in itertools.product(range(plan.repeats), enumerate(timed))
    }
    warm = False
    for unit in _pending("times", units, ongoing, reporter):
        if not warm:
            for scheme, sample in itertools.product(
                schemes.values(), itertools.islice(itertools.cycle(timed), plan.warmup)
            ):
                _request(scheme, sample, device)
            warm = True
            ongoing.record_telemetry(telemetry.sources)
        repeat, number, sample = units[unit]
        turns = np.random.default_rng([seed, repeat, number]).permutation(len(schemes))
        rows = []
        telemetry.begin()
        for pipeline, point in (list(schemes)[turn] for turn in turns):
            scheme = schemes[pipeline, point]
            sides = stage_sides(type(scheme))
            rows += [
                StageRow(
                    run=ongoing.manifest.name,
                    pipeline=pipeline,
                    point=point,
                    sample=sample.id,
                    repeat=repeat,
                    side=sides[stage],
                    stage=stage,
                    seconds=seconds,
                    energy_j=None,
                    machine=machine,
                    source="measured",
                )
                for stage, seconds in _request(scheme, sample, device).items()
            ]
            telemetry.look()
        if lowered := telemetry.end():
            ongoing.record_telemetry(telemetry.sources, lowered)
        ongoing.add(unit, stages=rows)
        reporter.advance()
    if warm:
        ongoing.record_telemetry(telemetry.sources)


def _pending(phase: str, units: Mapping[str, object], ongoing: Run, reporter: Reporter) -> Iterator[str]:
    """The units that are still to be worked; tells the reporter how many are not."""
    pending = [unit for unit in units if not ongoing.done(unit)]
    reporter.phase(phase, total=len(units), done=len(units) - len(pending))
    return iter(pending)


def _by_image(samples: Gathered) -> dict[tuple[str, str], list[int]]:
    """The places of the samples of each benchmark and image."""
    images: dict[tuple[str, str], list[int]] = {}
    for place, name in enumerate(samples.names):
        images.setdefault((name.benchmark, name.image_id), []).append(place)
    return images


def _timed_samples(samples: Gathered, wanted: int) -> list[Sample]:
    """One sample from each of ``wanted`` images spread evenly over a benchmark, its questions taking turns.

    Of several benchmarks each gives the same number, rounded up.
    """
    of_benchmark: dict[str, list[list[int]]] = {}
    for (benchmark, _), places in _by_image(samples).items():
        of_benchmark.setdefault(benchmark, []).append(places)
    timed: list[Sample] = []
    for images in of_benchmark.values():
        n = min(-(-wanted // len(of_benchmark)), len(images))
        chosen = np.linspace(0, len(images) - 1, n).round().astype(int)
        timed += [samples[images[image][turn % len(images[image])]] for turn, image in enumerate(chosen)]
    return timed


def _outcomes(
    scheme: Pipeline, of_image: Sequence[Sample], *, run: str, pipeline: str, point: str
) -> Iterator[OutcomeRow]:
    """The outcomes of all questions about one image."""
    sent = scheme.on_device(of_image[0], Untimed())
    if isinstance(sent, Payload):
        n_bytes, answers = len(sent.body), scheme.on_server(sent, [sample.question for sample in of_image], Untimed())
    else:
        others = (scheme.on_device(sample, Untimed()) for sample in of_image[1:])
        n_bytes, answers = 0, [sent, *(answer for answer in others if isinstance(answer, Answer))]
    for sample, answer in zip(of_image, answers, strict=True):
        yield OutcomeRow(
            run=run,
            pipeline=pipeline,
            point=point,
            sample=sample.id,
            category=sample.category,
            group=sample.group,
            payload_bytes=n_bytes,
            visual_tokens=answer.visual_tokens,
            answer=answer.text,
            truth=sample.truth,
            correct=judge(sample.question, sample.truth, answer.text),
        )


def _request(scheme: Pipeline, sample: Sample, device: str) -> dict[str, float]:
    """One request through both halves: the seconds of each of its stages."""
    clock = StageClock(synchroniser(device))
    sent = scheme.on_device(sample, clock)
    if isinstance(sent, Payload):
        scheme.on_server(sent, [sample.question], clock)
    return clock.seconds
