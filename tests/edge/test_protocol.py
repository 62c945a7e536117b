"""Messages between the ends arrive unchanged, and anything else is refused in a sentence."""

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.sample import Question
from harness.edge import protocol
from harness.edge.protocol import Info, differences
from harness.errors import PeerError

WORDS = st.text(max_size=20)
QUESTIONS = st.builds(
    Question,
    text=WORDS,
    kind=st.sampled_from(["choice", "yes_no", "open"]),
    options=st.dictionaries(WORDS, WORDS, max_size=4),
    hint=WORDS,
    marked=st.booleans(),
    pictures=st.integers(1, 255),
)


def info(**changes: object) -> Info:
    """One side's card, with anything in it changed by keyword."""
    facts: dict[str, object] = {
        "protocol": protocol.VERSION,
        "version": "1.0",
        "code": "c0de",
        "commit": None,
        "dirty": None,
        "packages": {"numpy": "2"},
        "machine": {"id": "1", "name": "a machine", "cpu_mhz": 1000, "governor": "powersave"},
        "telemetry": {},
        "backbone": "fake",
        "max_pixels": 16,
        "threads": 1,
        "kinds": {"fake": "fake"},
        "points": {"fake": {"levels=4": {"levels": 4}}},
        "depends": {"fake": {"levels=4": {"language of fake": "aaaa", "tower of fake": "bbbb"}}},
    }
    return Info.model_validate({**facts, **changes})


@pytest.mark.slow
@given(st.lists(QUESTIONS, min_size=1, max_size=3), st.binary(max_size=100), st.booleans(), WORDS)
def test_a_request_arrives_as_it_was_sent(questions: list[Question], payload: bytes, timed: bool, name: str) -> None:
    """Every question, whatever its characters, and every byte of the payload."""
    body = protocol.pack(protocol.asked(name, "-", questions, timed=timed), payload)
    ask, found = protocol.unpack(body)
    assert found == payload
    assert [question.question() for question in ask.questions] == questions
    assert (ask.pipeline, ask.point, ask.timed) == (name, "-", timed)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_request_are_refused(data: bytes) -> None:
    """Whatever arrives, it is a PeerError: no other exception, and no request."""
    with pytest.raises(PeerError):
        protocol.unpack(data)


@pytest.mark.parametrize("lengths", [[3], [7] * 1025, [1_000_000, 1, 1_000_000], [300_000] * 5, [3000] * 400])
def test_many_questions_are_sent_in_parts(lengths: list[int]) -> None:
    """In order, each once, and each part is one that a server takes."""
    questions = [Question(text="?" * length, kind="yes_no") for length in lengths]
    parts = list(protocol.at_once(questions))
    assert [question for part in parts for question in part] == questions
    assert (len(parts) > 1) == (len(lengths) > 1)
    for part in parts:
        assert protocol.unpack(protocol.pack(protocol.asked("fake", "-", part, timed=False), b"x"))[1] == b"x"


def test_a_question_that_no_request_takes_is_one_sentence() -> None:
    """On the device, before it is sent."""
    with pytest.raises(PeerError, match=r"^a question cannot be sent to a server: text is "):
        protocol.asked("fake", "-", [Question(text="?" * (1 << 20) + "?", kind="yes_no")], timed=False)


@given(st.data())
def test_a_request_that_is_cut_in_its_head_is_refused(data: st.DataObject) -> None:
    """No beginning of a head is a head."""
    ask = protocol.asked("fake", "-", [Question(text="What?", kind="open")], timed=True)
    body = protocol.pack(ask, b"")
    with pytest.raises(PeerError):
        protocol.unpack(body[: data.draw(st.integers(0, len(body) - 1))])


def test_a_head_that_is_nested_without_end_is_refused() -> None:
    """Deeply nested brackets cause no recursion."""
    head = b"[" * 500_000
    with pytest.raises(PeerError, match="head is not one"):
        protocol.unpack(struct.pack("<I", len(head)) + head)


def test_an_identity_is_that_of_the_same_server_started_again() -> None:
    """Another clock or telemetry does not make another server; other weights do."""
    one = info()
    again = info(machine={**one.machine, "cpu_mhz": 3000, "governor": "performance"}, telemetry={"clocks": "3 GHz"})
    assert one.identity == again.identity
    others = [
        info(code="other"),
        info(packages={"numpy": "1"}),
        info(machine={**one.machine, "id": "2"}),
        info(depends={"fake": {"levels=4": {"language of fake": "cccc", "tower of fake": "bbbb"}}}),
    ]
    assert len({one.identity, *(other.identity for other in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"code": "other"}, "the harness's code is c0de (version 1.0) here and other (version 1.0) there"),
        ({"backbone": "mini"}, "backbone is fake here and mini there"),
        ({"max_pixels": 4}, "max_pixels is 16 here and 4 there"),
        ({"threads": None}, "measure.threads is 1 here and None there"),
        ({"points": {}}, "fake at levels=4 is not served"),
        ({"points": {"fake": {"levels=4": {"levels": 5}}}}, "fake at levels=4 is another scheme or point there"),
        (
            {"depends": {"fake": {"levels=4": {"language of fake": "cccc", "tower of fake": "bbbb"}}}},
            "language of fake is aaaa here and cccc there",
        ),
        (
            {"depends": {"fake": {"levels=4": {"language of fake": "aaaa"}}}},
            "tower of fake is bbbb here and absent there",
        ),
    ],
)
def test_a_difference_is_named(changes: dict[str, object], phrase: str) -> None:
    """What the device has, and what the server has instead."""
    assert list(differences(info(), info(**changes))) == [phrase]


def test_packages_and_machines_may_differ_and_a_server_may_serve_more() -> None:
    """They are recorded, not refused."""
    one = info()
    more = info(
        packages={"numpy": "1"},
        machine={"id": "2", "name": "another"},
        kinds={"fake": "fake", "jpeg": "jpeg"},
        points={**one.points, "jpeg": {"-": {}}},
        depends={**one.depends, "jpeg": {"-": {}}},
    )
    assert list(differences(one, more)) == []


def test_a_question_on_its_way_has_every_field() -> None:
    """A new field of a question is transmitted, too."""
    assert set(protocol.AskedQuestion.model_fields) == {field.name for field in dataclasses.fields(Question)}
