"""Runs the schemes: what they answer and how many bytes they send, and what their halves need besides time.

Answers need every sample, at the least cost: the questions about one picture share its payload, which changes no
answer. Times (:mod:`harness.timing`) need one request after the other, as a user would send them, in another pass.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import ClassVar, Protocol, TypeAlias

from harness.analysis.means import draw_by_strata
from harness.data.gathered import Gathered
from harness.data.sample import Question, Sample
from harness.data.scoring import DEFAULT_SCORING, judge
from harness.edge.exchange import Transfer
from harness.errors import PeerError, SchemeError, placed
from harness.models.contract import Answer, Clock, LanguageSide, Request, Sharing, Untimed
from harness.profiling.resources import Need, half_needs
from harness.records import OutcomeRow, PointKey, ResourceRow, Side
from harness.reporter import Reporter
from harness.runs.recorded import RecordedTimes
from harness.runs.store import Run, Unit
from harness.scenario.model import Measure
from harness.schemes.contract import DeviceHalf, ServerHalf
from harness.schemes.envelope import receive, send
from harness.schemes.steps import TokenServer, asked


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A scheme at one point: its two halves, and the kind of payload that passes between them."""

    kind: str
    device: DeviceHalf
    server: ServerHalf
    near: ClassVar[bool] = True

    def serve(self, data: bytes, questions: Sequence[Question], clock: Clock) -> tuple[list[Answer], None]:
        """The server half's answers about an envelope; there is no link."""
        return receive(self.server, data, questions, clock, kind=self.kind), None

    def again(self, data: bytes, questions: Sequence[Question]) -> None:
        """Repeats the server half's work on an envelope; the answer is discarded."""
        self.serve(data, questions, Untimed())

    def needs(self, data: bytes, questions: Sequence[Question], device: str) -> list[Need]:
        """What the server half needs for an envelope."""
        return list(half_needs(self.server, lambda clock: self.serve(data, questions, clock), device))


def sent_by(split: "Parted", sample: Sample, clock: Clock) -> bytes | Answer:
    """What the device half sends of a sample, or its answer."""
    return send(split.device, sample, clock, kind=split.kind)


class Parted(Protocol):
    """A scheme at one point: a :class:`Split`, or with a remote server half, one of :mod:`harness.edge.client`."""

    near: ClassVar[bool]
    """Whether there is no link to the server half, so that its time has to be waited."""

    @property
    def kind(self) -> str:
        """The kind of payload that passes between the halves."""
        ...

    @property
    def device(self) -> DeviceHalf:
        """The device half."""
        ...

    def serve(self, data: bytes, questions: Sequence[Question], clock: Clock) -> tuple[list[Answer], Transfer | None]:
        """The answers about an envelope, and the link's times if there is a link."""
        ...

    def again(self, data: bytes, questions: Sequence[Question]) -> None:
        """Repeats the server half's work on an envelope, unshaped; the answer is discarded."""
        ...

    def needs(self, data: bytes, questions: Sequence[Question], device: str) -> list[Need]:
        """What the server half needs for an envelope: stage, quantity and value; ``device`` is torch's name."""
        ...


Halves = Mapping[PointKey, Parted]
"""By pipeline and point."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: halves and samples, with the digests of what their rows depend on."""

    halves: Halves
    samples: Gathered
    sample_digests: Sequence[str]
    depends: Mapping[PointKey, Mapping[str, str]]
    patches: Sequence[int]
    """The number of patches of each sample's pictures: the strata from which timed pictures are drawn."""
    scoring: str = DEFAULT_SCORING
    threads: int | None = None
    """The processor threads that the scenario asks for, which decide how sums are rounded."""
    recorded: Mapping[tuple[str, str, Side], RecordedTimes] = dataclasses.field(default_factory=dict)
    """Stage times that take the place of measured ones."""
    shape: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What shapes the sending to a server: times over the link depend on it, answers do not."""
    sent: Mapping[PointKey, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """The digest of each sample's payload, where payloads were made elsewhere."""

    @functools.cached_property
    def pictures(self) -> Sequence[Sequence[int]]:
        """The places of the samples that show the same pictures, benchmark by benchmark."""
        found: dict[tuple[str, str], list[int]] = {}
        for place, name in enumerate(self.samples.names):
            found.setdefault((name.benchmark, name.image_id), []).append(place)
        return list(found.values())

    def to_time(self, seed: int) -> list[tuple[int, ...]]:
        """The places of samples to time, one of each picture, in the order in which they are taken.

        Of every benchmark its next picture, drawn by strata of patches (:func:`harness.analysis.means.draw_by_strata`);
        the questions about pictures take turns.
        """
        of_benchmark: dict[str, list[Sequence[int]]] = {}
        for places in self.pictures:
            of_benchmark.setdefault(self.samples.names[places[0]].benchmark, []).append(places)
        drawn = []
        for pictures in of_benchmark.values():
            order = draw_by_strata([self.patches[places[0]] for places in pictures], len(pictures), seed)
            drawn.append([pictures[picture][turn % len(pictures[picture])] for turn, picture in enumerate(order)])
        taken = itertools.zip_longest(*drawn)
        return [tuple(place for place in places if place is not None) for places in taken]

    def timed_places(self, n: int, seed: int) -> list[int]:
        """The first ``n`` of :meth:`to_time`, as many of each benchmark, rounded up."""
        order = self.to_time(seed)
        return [place for places in order[: -(-n // len(order[0]))] for place in places]

    def answering(self, key: PointKey, places: Sequence[int]) -> Unit:
        """The unit of a scheme's answers to all questions about one picture."""
        name = f"answers {' '.join(key)}, {self.samples.names[places[0]].id}"
        how = {"scoring": self.scoring, "threads": str(self.threads)}
        return Unit(name, {**self.work_depends(key, places), **how})

    @functools.cached_property
    def to_answer(self) -> Mapping[Unit, tuple[PointKey, Sequence[int]]]:
        """The units of all answers, with the point and the places of the samples of each.

        Picture after picture, so that points that share a tower share its features of each.
        """
        return {self.answering(key, places): (key, places) for places in self.pictures for key in self.halves}

    def timing(
        self, key: PointKey, repeat: int, place: int, schedule: Measure, paced: Mapping[str, str] | None = None
    ) -> Unit:
        """The unit of one timed request of a scheme; ``paced`` is what it depends on if not timed back to back."""
        name = f"times {' '.join(key)}, {self.samples.names[place].id}, repeat {repeat}"
        how = {"threads": str(schedule.threads), "warmup": str(schedule.warmup)}
        profiles = {
            f"profile of the {side}": recorded.identity
            for (*of_key, side), recorded in self.recorded.items()
            if tuple(of_key) == key
        }
        return Unit(name, {**self.work_depends(key, [place]), **how, **profiles, **self.shape, **(paced or {})})

    def work_depends(self, key: PointKey, places: Sequence[int]) -> dict[str, str]:
        """What the work on some samples by a scheme depends on."""
        names = [self.samples.names[place].id for place in places]
        questions = {name: self.sample_digests[place] for name, place in zip(names, places, strict=True)}
        sent = {f"payload of {name}": self.sent[key][name] for name in names if key in self.sent}
        return {**self.depends[key], **questions, **sent}

    def weighing(self, key: PointKey, place: int, device: str) -> Unit:
        """What a scheme needs besides time, for one request."""
        name = f"resources {' '.join(key)}, {self.samples.names[place].id}"
        return Unit(name, {**self.work_depends(key, [place]), "device": device})


Part: TypeAlias = Sequence[Unit]
"""Units of one picture, which are answered together and committed together."""
Answers: TypeAlias = Callable[[Part], list[OutcomeRow]]
"""What answers a part."""
Answered: TypeAlias = Generator[tuple[Part, list[OutcomeRow]], None, None]
"""Each part with its rows, as they are there."""
Spread: TypeAlias = Callable[[Answers, Sequence[Part]], Answered]
"""What has parts answered, here or elsewhere."""


def named(part: Part) -> str:
    """The name of a part in messages: that of its first unit, and how many it is answered with."""
    more = f", or one of the {len(part) - 1} answers with it" if len(part) > 1 else ""
    return part[0].name + more


def one_by_one(answers: Answers, parts: Sequence[Part]) -> Answered:
    """Answers the parts in this process, in order."""
    for part in parts:
        yield part, answers(part)


def answer(plan: Plan, ongoing: Run, reporter: Reporter, *, spread: Spread = one_by_one) -> None:
    """Lets every scheme answer every sample, by way of ``spread``, and commits an outcome row for each.

    Units that an earlier process finished are skipped.
    """
    units = plan.to_answer
    pending = ongoing.expect(units)
    reporter.phase("answers", total=len(units), done=len(units) - len(pending))
    parts = [list(of_picture) for _, of_picture in itertools.groupby(pending, key=lambda unit: units[unit][1])]
    if not parts:
        return
    with contextlib.closing(spread(answers_of(plan, ongoing.manifest.name), parts)) as answered:
        for part, rows in answered:
            ongoing.add(part, outcomes=rows)
            for _ in part:
                reporter.advance()


def answers_of(plan: Plan, run: str) -> Answers:
    """What answers parts of a plan, for a run of this name.

    Raises PeerError for a unit that is not in the plan, such as one of a process with other dependencies.
    """
    units = plan.to_answer

    def answers(part: Part) -> list[OutcomeRow]:
        for unit in part:
            if unit not in units:
                raise PeerError(f"{unit.name}: depends on other things here than in the process that requested it")
        return list(_outcomes(plan, {unit.key: units[unit] for unit in part}, run=run))

    return answers


def weigh(
    plan: Plan,
    ongoing: Run,
    reporter: Reporter,
    *,
    seed: int,
    machines: Mapping[Side, str],
    device: str,
) -> None:
    """Commits what each half of every scheme needs besides time, on the first of the timed samples.

    Only of the sides that ``machines`` names; a server half on another machine reports its needs itself.

    Each half runs once before, so that what it loads or compiles once is not counted; once for its memory, and once for
    its operations. This runs in one process: the peak of a forked one differs by some percent.
    """
    place = plan.to_time(seed)[0][0]
    units = {plan.weighing(key, place, device): key for key in plan.halves}
    pending = ongoing.expect(units)
    reporter.phase("memory and operations", total=len(units), done=len(units) - len(pending))
    for unit in pending:
        with placed(" at ".join(units[unit]), plan.samples.names[place].id):
            needs = list(_needs(plan.halves[units[unit]], plan.samples[place], device))
        rows = [
            ResourceRow(
                run=ongoing.manifest.name,
                unit=unit.key,
                pipeline=units[unit][0],
                point=units[unit][1],
                sample=plan.samples.names[place].id,
                side=side,
                stage=stage,
                quantity=quantity,
                value=float(value),
                machine=machines[side],
                source="measured",
            )
            for side, (stage, quantity, value) in needs
            if side in machines
        ]
        ongoing.add(unit, resources=rows)
        reporter.advance()


def _needs(split: Parted, sample: Sample, device: str) -> Iterator[tuple[Side, Need]]:
    """Side, stage, quantity and value of all that the halves need for a request."""
    first: list[bytes | Answer] = []

    def work(clock: Clock) -> None:
        sent = sent_by(split, sample, clock)
        if not first:
            first.append(sent)

    for need in half_needs(split.device, work, device):
        yield "device", need
    if not isinstance(sent := first[0], Answer):
        for need in split.needs(sent, [sample.question], device):
            yield "server", need


def _outcomes(plan: Plan, units: Mapping[str, tuple[PointKey, Sequence[int]]], *, run: str) -> Iterator[OutcomeRow]:
    """The outcomes of units, by their keys: all questions about one picture at one point each."""
    # Each is read from its file once for all points.
    samples = {place: plan.samples[place] for place in dict.fromkeys(place for _, of in units.values() for place in of)}
    asked_at = [(key, [samples[place] for place in places]) for key, places in units.values()]
    for unit, (key, of_picture), (n_bytes, answers) in zip(units, asked_at, _answered(plan, asked_at), strict=True):
        for sample, answer in zip(of_picture, answers, strict=True):
            yield OutcomeRow(
                run=run,
                unit=unit,
                pipeline=key[0],
                point=key[1],
                sample=sample.id,
                payload_bytes=n_bytes,
                visual_tokens=answer.visual_tokens,
                prompt_tokens=answer.prompt_tokens,
                answer_tokens=answer.answer_tokens,
                answer=answer.text,
                truth=sample.truth,
                correct=judge(sample.question, sample.truth, answer.text, plan.scoring),
            )


def _answered(plan: Plan, units: Sequence[tuple[PointKey, Sequence[Sample]]]) -> list[tuple[int, list[Answer]]]:
    """The bytes of each unit's payload, and the answers to its questions, which are about one picture.

    What several points ask of one language side is asked at once.
    """
    found: list[tuple[int, list[Answer]]] = []
    sides: dict[int, LanguageSide] = {}
    requested: dict[int, list[tuple[int, Request]]] = {}
    for key, samples in units:
        split = plan.halves[key]
        questions = [sample.question for sample in samples]
        with placed(" at ".join(key), samples[0].id):
            sent = sent_by(split, samples[0], Sharing())
            if isinstance(sent, Answer):
                found.append((0, [sent, *(_own_answer(split, sample) for sample in samples[1:])]))
            elif isinstance(split, Split) and isinstance(split.server, TokenServer):
                requests = receive(split.server.requests, sent, questions, Sharing(), kind=split.kind)
                side = split.server.language
                sides[id(side)] = side
                requested.setdefault(id(side), []).extend((len(found), request) for request in requests)
                found.append((len(sent), []))
            else:
                found.append((len(sent), split.serve(sent, questions, Sharing())[0]))
    for name, side in sides.items():
        units_of, requests_of = zip(*requested[name], strict=True)
        keys = list(dict.fromkeys(" at ".join(units[unit][0]) for unit in units_of))
        together = keys[0] + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
        with placed(together, units[units_of[0]][1][0].id):
            answers = asked(side, requests_of, Sharing())
        for unit, answer in zip(units_of, answers, strict=True):
            found[unit][1].append(answer)
    return found


def _own_answer(split: Parted, sample: Sample) -> Answer:
    """The device half's answer to a further question about pictures that it sends nothing of."""
    sent = sent_by(split, sample, Sharing())
    if not isinstance(sent, Answer):
        raise SchemeError(f"the device half sends a payload for sample {sample.id}, and answers others of its pictures")
    return sent
