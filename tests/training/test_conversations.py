"""A small file in the form of llava_v1_5_mix665k.json: what is read of it, and the error for a wrong entry."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.data.sample import Question, Sample
from harness.errors import DataError
from harness.models.prompts import LLAVA15, ONEVISION
from harness.training.contract import Turn
from harness.training.conversations import Conversations


def read(file: Path, **changes: Any) -> Conversations:
    """The file's entries, images beside it."""
    config = {"kind": "conversations", "file": str(file), "images": str(file.parent / "images"), **changes}
    return Conversations(Conversations.Config(**config), LLAVA15)


def test_entries_are_read_in_order_and_images_when_they_are_wanted(conversations: Path) -> None:
    """Turns without the image's mark, wherever it was; text alone has no picture; a picture is opened when needed."""
    data = read(conversations)
    assert len(data) == 9
    assert [data.picture(index) for index in range(9)].count(None) == 1
    first, two_turns, words = (data.example(index, 0) for index in (0, 3, 4))
    assert first.dialogues == ((Turn("Is it bright?", "No"),),)
    assert two_turns.dialogues == ((Turn("Is it bright?", "Yes"), Turn("Sure?", "Yes")),)
    assert (words.id, words.image) == ("words", None)
    assert first.image is not None
    assert (first.image().size, first.image().mode) == ((40, 24), "RGB")
    assert len(read(conversations, entries=2)) == 2
    (conversations.parent / "images" / "some" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"mix.json: entry 0 \(id 000000\): its image .*0.png cannot be decoded"):
        first.image()


def test_training_sees_the_pixels_that_a_benchmark_shows(conversations: Path) -> None:
    """Transparency, 16 bits and orientation are read as a sample's are; a truncated picture is one sentence."""
    image = read(conversations).example(0, 0).image
    assert image is not None
    place = conversations.parent / "images" / "some" / "0.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    for picture in (
        Image.new("RGBA", (9, 7), (0, 0, 0, 0)),
        Image.new("I;16", (9, 7), 32768),
        Image.new("L", (9, 7), 5),
    ):
        picture.save(place, exif=exif)
        sample = Sample(
            id="0",
            image_bytes=place.read_bytes(),
            question=Question(text="?", kind="open"),
            truth="x",
            category="",
            group="0",
        )
        assert image() == sample.image()
        assert image().size == (7, 9)
    Image.effect_noise((90, 70), 80).save(place)
    place.write_bytes(place.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"entry 0 .*0.png cannot be decoded: its \d+ bytes are not a whole picture"):
        image()
    place.unlink()
    with pytest.raises(DataError, match=r"entry 0 .*0.png cannot be decoded: No such file"):
        image()


def test_the_published_file_s_quirks_are_skipped(conversations: Path) -> None:
    """A leading answer and a trailing question are left out."""
    said = json.loads(conversations.read_text())
    said[4]["conversations"] = [
        {"from": "gpt", "value": "Well"},
        {"from": "human", "value": "Hello"},
        {"from": "gpt", "value": "Hi"},
        {"from": "human", "value": "And?"},
    ]
    conversations.write_text(json.dumps(said))
    assert read(conversations).example(4, 0).dialogues == ((Turn("Hello", "Hi"),),)


def _set(*path: Any, value: Any) -> Callable[[list[Any]], None]:
    def change(entries: list[Any]) -> None:
        place: Any = entries
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_set(2, value="text"), r"entry 2: is str; an entry has 'id', 'conversations'"),
        (_set(2, "conversations", value=None), r"entry 2 \(id 000002\): its 'conversations' is None"),
        (_set(2, "conversations", value=[]), r"entry 2 \(id 000002\): holds no question with an answer"),
        (_set(2, "image", value=7), r"entry 2 \(id 000002\): its 'image' is 7"),
        (_set(2, "image", value="some/9.png"), r"entry 2 \(id 000002\): its image some/9.png is not in .*images"),
        (_set(2, "image", value="other/1.png"), r"entry 2 \(id 000002\): its image other/1.png is not in"),
        (_set(2, "conversations", 0, "from", value="system"), r"turn 0 is from 'system'; 'human' or 'gpt'"),
        (_set(2, "conversations", 1, "from", value="human"), r"'human' speaks twice in a row"),
        (_set(2, "conversations", 1, "value", value=3), r"turn 1 has the value 3; a text is expected"),
        (_set(2, "conversations", 0, "value", value="What?"), r"<image> occurs 0 times in its questions"),
        (_set(2, "conversations", 0, "value", value="<image><image>"), r"<image> occurs 2 times"),
    ],
)
def test_a_wrong_entry_is_named_with_its_number_and_id(
    conversations: Path, change: Callable[[list[Any]], None], sentence: str
) -> None:
    """One sentence, before any training."""
    entries = json.loads(conversations.read_text())
    change(entries)
    conversations.write_text(json.dumps(entries))
    with pytest.raises(DataError, match=sentence):
        read(conversations)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("{", "is not JSON"), ("{}", "holds dict; a list of one or more conversations"), ("[]", "holds list")],
)
def test_a_file_that_is_no_list_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    """So is one that is not there."""
    (tmp_path / "mix.json").write_text(text)
    with pytest.raises(DataError, match=sentence):
        read(tmp_path / "mix.json")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read(tmp_path / "none.json")


def test_a_conversation_in_the_words_of_the_templates() -> None:
    """First turn after a picture, first turn without one, and a later turn."""
    assert ONEVISION.turn("Hi", first=True, image=True) == "\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert ONEVISION.turn("Hi", first=True, image=False) == "Hi<|im_end|>\n<|im_start|>assistant\n"
    assert ONEVISION.turn("Hi", first=False, image=True) == "\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert LLAVA15.turn("Hi", first=True, image=True) == "\nHi ASSISTANT:"
    assert LLAVA15.turn("Hi {x}", first=False, image=True) == "USER: Hi {x} ASSISTANT:"
