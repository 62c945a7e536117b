"""Mistakes of a scheme of one's own: each is one sentence with scheme, point and sample, and nothing is scored."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from harness import measure, timing
from harness.data.gathered import gather
from harness.data.questions import samples
from harness.data.streetsqa import book
from harness.errors import BitstreamError, HarnessError, SchemeError, placed
from harness.models.contract import Answer, Sharing, Untimed
from harness.profiling.clock import StageClock
from harness.schemes.contract import Payload
from harness.schemes.envelope import pack, receive, send
from harness.schemes.fake import Fake, FakeLanguage, FakeModels, FakePoint
from harness.schemes.steps import TokenServer, answers

PAGES = samples(book("test", 0)[:1], paired=False)
SAMPLE, N = PAGES[0], len(PAGES)
RIGHT = torch.ones(3, 8)


class TorchSide(FakeLanguage):
    """The fake side, as one that computes with torch."""

    device = torch.device("cpu")


class Server(TokenServer):
    """Returns the tokens that it is given."""

    def __init__(self, made: Any, language: Any = None) -> None:
        self.made = made
        self.language = language or TorchSide()

    def tokens(self, payload: Any, clock: Any) -> Any:
        return self.made


class WithoutLanguage(TokenServer):
    """Forgets its language side."""

    def tokens(self, payload: Any, clock: Any) -> Any:
        return [RIGHT]


def plan_of(device: Any = None, server: Any = None) -> measure.Plan:
    """What is measured of a scheme with one of these halves."""
    point = FakePoint()
    halves = {
        ("own", "levels=3"): measure.Split(
            kind="fake",
            device=device or Fake.device_half(FakeModels(), point),
            server=server or Fake.server_half(FakeModels(), point),
        )
    }
    gathered = gather({"StreetsQA": PAGES})
    return measure.Plan(
        halves=halves,
        samples=gathered,
        sample_digests=[sample.id for sample in gathered],
        depends={key: {"scheme": "own"} for key in halves},
        patches=[1] * len(gathered),
    )


def refused(**halves: Any) -> str:
    """What is said when the answers are asked for, without its place; the same is said in the timed pass."""
    plan = plan_of(**halves)
    with pytest.raises(HarnessError) as caught:
        measure.answers_of(plan, "run")(list(plan.to_answer))
    said, place = str(caught.value), f"own at levels=3, sample {plan.samples.names[0].id}: "
    assert said.startswith(place)
    return said.removeprefix(place)


TOKENS: dict[str, tuple[Any, str]] = {
    "width": ([torch.ones(3, 7)], "the visual tokens have shape (3, 7); (T, H) with T from 1 on and H = 8 is expected"),
    "three axes": ([torch.ones(1, 3, 8)], "the visual tokens have shape (1, 3, 8); (T, H)"),
    "none": ([torch.ones(0, 8)], "the visual tokens have shape (0, 8); (T, H) with T from 1 on"),
    "a tensor": (RIGHT, "the visual tokens are of type Tensor; a list is expected"),
    "nothing": (None, "the visual tokens are of type NoneType; a list is expected"),
    "NumPy": ([np.ones((3, 8), np.float32)], "the visual tokens are of type ndarray; a tensor (T, H) is expected"),
    "no pictures": ([], "there are visual tokens of 0 pictures, and the payload's number is 1"),
    "twice": ([RIGHT, RIGHT], "there are visual tokens of 2 pictures, and the payload's number is 1"),
    "integers": ([torch.ones(3, 8, dtype=torch.int64)], "the visual tokens are torch.int64; floating-point"),
    "undefined": ([RIGHT * float("nan")], "the visual tokens hold values that are infinite or no numbers (NaN)"),
    "infinite": ([RIGHT / 0], "the visual tokens hold values that are infinite or no numbers (NaN)"),
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_of_another_form_are_not_answered(name: str) -> None:
    """By a server half that makes only tokens, and by one that asks for answers itself."""
    made, sentence = TOKENS[name]
    assert refused(server=Server(made)).startswith(sentence)

    def half(payload: Payload, questions: Any, clock: Any) -> list[Answer]:
        return answers(TorchSide(), made, questions, clock)

    assert refused(server=half).startswith(sentence)


def test_a_picture_is_named_by_its_number() -> None:
    """Where there are several."""
    server, payload = Server([RIGHT, RIGHT[None]]), Payload("own", (b"1", b"2"))
    with pytest.raises(SchemeError, match="tokens of picture 2 have shape"):
        server(payload, [SAMPLE.question], Untimed())


def test_values_are_looked_at_only_where_nothing_is_timed() -> None:
    """The form is checked in every pass, outside any stage; the values would make a timed pass wait."""
    clock = StageClock()
    assert Server([RIGHT * 2]).requests(Payload("own", (b"1",)), [SAMPLE.question], clock)
    assert not clock.seconds
    Server([RIGHT * float("nan")]).requests(Payload("own", (b"1",)), [SAMPLE.question], clock)
    for untimed in (Untimed(), Sharing()):
        with pytest.raises(SchemeError, match="no numbers"):
            Server([RIGHT * float("nan")]).requests(Payload("own", (b"1",)), [SAMPLE.question], untimed)


def test_a_server_without_its_language_side_is_said() -> None:
    """By both ways to answers."""
    sentence = "the attribute 'language' of WithoutLanguage is None; the language side is expected"
    assert refused(server=WithoutLanguage()).startswith(sentence)
    with pytest.raises(SchemeError, match="WithoutLanguage"):
        WithoutLanguage()(Payload("own", (b"1",)), [SAMPLE.question], Untimed())


def returning(made: Any) -> Callable[..., Any]:
    """A half that returns this."""
    return lambda *_: made


def answering(made: Any) -> Callable[..., Any]:
    """A server half that returns this for each question."""
    return lambda _, questions, __: [made] * len(questions)


DEVICES: dict[str, tuple[Any, str]] = {
    "nothing": (returning(None), "the device half returned None; a Payload is expected"),
    "bytes": (returning(b"12"), "the device half returned b'12'; a Payload is expected"),
    "texts": (returning(Payload("fake", ("12",))), "a payload's body is of type str; bytes"),  # type: ignore[arg-type]
    "no tuple": (returning(Payload("fake", b"12")), "a payload's bodies are b'12'; a tuple"),  # type: ignore[arg-type]
    "no bodies": (returning(Payload("fake", ())), "the payload has 0 bodies; one for each picture is expected, here 1"),
    "300 bodies": (returning(Payload("fake", (b"",) * 300)), "the payload has 300 bodies"),
    "kind": (
        returning(Payload("own", (b"1",))),
        "the device half sends a payload of the kind 'own'; 'fake' is expected",
    ),
    "no text": (returning(Answer(None, 1, 1, 1)), "a half answered Answer(text=None"),  # type: ignore[arg-type]
    "no half": (7, "the device half is 7; device_half must return a function"),
}


@pytest.mark.parametrize("name", DEVICES)
def test_what_is_no_payload_is_not_sent(name: str) -> None:
    """Nor is an answer without its text taken."""
    device, sentence = DEVICES[name]
    assert refused(device=device).startswith(sentence)


SERVERS: dict[str, tuple[Any, str]] = {
    "nothing": (
        returning(None),
        "the server half returned None; a list with one answer for each question is expected, here",
    ),
    "none": (
        returning([]),
        "the server half returned 0 answers; a list with one answer for each question is expected, here",
    ),
    "texts": (answering("A"), "a half answered 'A'; an Answer is expected"),
    **{
        f"{count!r} tokens": (answering(Answer("A", 1, 1, count)), "a half answered Answer(text='A'")  # type: ignore[arg-type]
        for count in (True, 1.5, -1, 2**63)
    },
    "half a pair": (
        answering(Answer("A \ud83d", 1, 1, 1)),
        "a half answered Answer(text='A \\ud83d', visual_tokens=1, prompt_tokens=1,...; its character 3 is '\\ud83d'",
    ),
    "no half": (7, "the server half is 7; server_half must return a function"),
}


@pytest.mark.parametrize("name", SERVERS)
def test_what_are_no_answers_is_not_scored(name: str) -> None:
    """As many answers as questions are expected."""
    server, sentence = SERVERS[name]
    assert refused(server=server).startswith(sentence)


class AnswersOf(TorchSide):
    """A language side that makes this of its right answers."""

    def __init__(self, made: Callable[[list[Answer]], Any]) -> None:
        self.made = made

    def answer(self, requests: Any, clocks: Any) -> Any:
        return self.made([Answer("A", 3, 5, 2)] * len(requests))


SIDES: dict[str, tuple[Callable[[list[Answer]], Any], str]] = {
    "too few": (lambda right: right[1:], f"returned {N - 1} answers; one for each request is expected, here {N}"),
    "too many": (
        lambda right: [*right, right[0]],
        f"returned {N + 1} answers; one for each request is expected, here {N}",
    ),
    "nothing": (lambda _: None, "returned None; a list with one answer for each request is expected"),
    "texts": (lambda right: [one.text for one in right], "a half answered '"),
}


@pytest.mark.parametrize("name", SIDES)
def test_a_language_side_answers_each_request_once(name: str) -> None:
    """Asked for several points at once, by a half itself, and in the timed pass."""
    made, sentence = SIDES[name]
    side = AnswersOf(made)
    said = refused(server=Server([RIGHT], side))
    assert sentence in said
    if name != "texts":
        assert said.startswith("the language side (AnswersOf of fake) returned")

    def half(payload: Payload, questions: Any, clock: Any) -> list[Answer]:
        return answers(side, [RIGHT], questions, clock)

    assert refused(server=half) == said
    with pytest.raises(SchemeError) as caught:
        Server([RIGHT], side)(Payload("own", (b"1",)), [page.question for page in PAGES], Untimed())
    assert str(caught.value) == said


def staged(*names: Any) -> Callable[..., Payload]:
    """A device half that enters stages of these names, each inside the one before."""

    def half(sample: Any, clock: Any) -> Payload:
        with contextlib.ExitStack() as inside:
            for name in names:
                inside.enter_context(clock.stage(name))
        return Payload("fake", (b"1" * 16,))

    return half


STAGES: dict[str, tuple[tuple[Any, ...], str]] = {
    "overlap": (("shrink", "encode"), "the stage 'encode' begins inside the stage 'shrink'; stages follow one another"),
    "itself": (("encode", "encode"), "the stage 'encode' begins inside the stage 'encode'"),
    "number": ((3,), "a stage's name is 3; a text on one line is expected"),
    "nothing": (("",), "a stage's name is ''; a text on one line is expected"),
    "two lines": (("a\nb",), "a stage's name is 'a\\nb'; a text on one line is expected"),
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_checked_by_the_first_answer(name: str) -> None:
    """With the sentence of the timed pass, which may come days later."""
    names, sentence = STAGES[name]
    assert refused(device=staged(*names)).startswith(sentence)
    plan = plan_of(device=staged(*names))
    with pytest.raises(SchemeError) as caught:
        timing._warm_up(plan, list(plan.halves), [0], 1, "cpu")
    assert sentence in str(caught.value)


def test_a_stage_around_the_language_side_is_found_by_the_first_answer() -> None:
    """Where a server half asks for all answers inside a stage of its own."""

    def half(payload: Payload, questions: Any, clock: Any) -> list[Answer]:
        with clock.stage("server"):
            return answers(TorchSide(), [RIGHT], questions, clock)

    assert refused(server=half).startswith("the stage 'prefill' begins inside the stage 'server'")


def test_a_language_side_may_enter_the_stages_of_all_requests_at_once() -> None:
    """Each has a clock of its own; the answers are those of one request after the other."""

    class OneByOne(TorchSide):
        def answer(self, requests: Any, clocks: Any) -> list[Answer]:
            for clock in clocks:
                with clock.stage("prefill"):
                    pass
            return [Answer("A", 3, 5, 2)] * len(requests)

    class Together(OneByOne):
        def answer(self, requests: Any, clocks: Any) -> list[Answer]:
            with contextlib.ExitStack() as inside:
                for clock in clocks:
                    assert isinstance(clock, Sharing)
                    inside.enter_context(clock.stage("prefill"))
            return super().answer(requests, clocks)

    plans = [plan_of(server=Server([RIGHT], side)) for side in (Together(), OneByOne())]
    one, other = (measure.answers_of(plan, "run")(list(plan.to_answer)) for plan in plans)
    assert one == other
    assert Server([RIGHT], Together())(Payload("own", (b"1",)), [page.question for page in PAGES], Sharing())


def failing(error: BaseException) -> Callable[..., Any]:
    """A half that raises such an error."""

    def half(*_: Any) -> Any:
        raise type(error)(*error.args)

    return half


def test_an_error_of_a_half_says_where() -> None:
    """A BitstreamError in its sentence, in both passes; any other exception stays itself and has a note."""
    assert refused(server=failing(BitstreamError("cut"))) == "cut"
    plan = plan_of(device=failing(ZeroDivisionError("mine")))
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        measure.answers_of(plan, "run")(list(plan.to_answer))
    name = plan.samples.names[0].id
    assert caught.value.__notes__ == [f"raised for own at levels=3, sample {name}"]
    with pytest.raises(ZeroDivisionError) as caught:
        timing._warm_up(plan, list(plan.halves), [0], 1, "cpu")
    assert caught.value.__notes__ == [f"raised for own at levels=3, sample {name}"]


def test_code_that_ends_the_process_is_named() -> None:
    """With its place; the command would otherwise end without a word."""
    assert refused(device=failing(SystemExit(5))).startswith("its code ends the process (SystemExit: 5); ")


def test_a_place_is_said_once() -> None:
    """An error that names its sample is not told it again."""
    with pytest.raises(BitstreamError, match=r"^jpeg at -: sample a: its picture$"), placed("jpeg at -", "a"):
        raise BitstreamError("sample a: its picture")
    with pytest.raises(BitstreamError, match=r"^jpeg at -, sample b: sample a: its picture$"), placed("jpeg at -", "b"):
        raise BitstreamError("sample a: its picture")


def test_a_foreign_kind_is_named_where_it_is_known() -> None:
    """By the catalog's name."""
    server = Fake.server_half(FakeModels(), FakePoint())
    for kind, named in (("jpeg", "jpeg"), ("unheard-of", "of no scheme of the catalog")):
        with pytest.raises(BitstreamError, match=rf"a payload's kind is 0x[0-9a-f]{{4}} \({named}\); fake has"):
            receive(server, pack(Payload(kind, (b"1",))), [SAMPLE.question], Untimed(), kind="fake")


def test_the_fake_scheme_is_still_sent_and_answered() -> None:
    """What keeps the contract passes, with NumPy where the side takes it."""
    plan = plan_of()
    assert len(measure.answers_of(plan, "run")(list(plan.to_answer))) == len(PAGES)
    (half,) = plan.halves.values()
    assert isinstance(send(half.device, SAMPLE, Untimed(), kind="fake"), bytes)
