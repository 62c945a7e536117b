r"""Instruction-tuning data in the form of ``llava_v1_5_mix665k.json``, with its folder of images.

A list of ``{"id", "image" (absent for text only), "conversations": [{"from": "human", "value": "<image>\n..."},
{"from": "gpt", "value": ...}, ...]}``. All entries are checked when the file is read; images are opened one by one.
"""

import functools
import hashlib
import json
import os
import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from PIL import Image
from pydantic import Field

from harness.data import pictures
from harness.errors import DataError
from harness.files import why
from harness.models.prompts import Template
from harness.scenario.fields import Frozen
from harness.training.contract import Dialogue, Example, Turn

T = TypeVar("T")
_IMAGE = "<image>"


class Conversations:
    """The entries of such a file, in its order.

    Raises DataError, naming the entry's number (from 0) and id, for an entry of another form or an image that is not
    there. Two quirks of the published file are skipped: a conversation that begins with an answer, and one that ends
    with a question.
    """

    asks = True

    class Config(Frozen):
        """The file, the folder that its images' paths start from, and how many entries to read (all without it)."""

        kind: Literal["conversations"]
        file: str
        images: str
        entries: int | None = Field(default=None, ge=1)

    def __init__(self, config: Config, template: Template) -> None:  # noqa: ARG002
        self._file, self._images = Path(config.file), Path(config.images)
        entries = _read(self._file)[: config.entries]
        files = _Listing(self._images)
        self._entries = [_checked(self._file, number, entry, files) for number, entry in enumerate(entries)]

    def __len__(self) -> int:
        return len(self._entries)

    @functools.cached_property
    def identity(self) -> str:
        """The file's name and size, a digest of it, and how many of its entries are read."""
        with self._file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()[:8]
        return f"{self._file.name}, {self._file.stat().st_size} bytes, {digest}, {len(self)} entries"

    def picture(self, index: int) -> str | None:
        """The path of the picture that an entry shows, if it shows one; several entries may show the same."""
        image = self._entries[index][1]
        return None if image is None else posixpath.normpath(image)

    def example(self, index: int, draw: int) -> Example:  # noqa: ARG002
        """An entry; the same in every pass."""
        name, image, dialogue = self._entries[index]
        read = functools.partial(self._open, index, name, image) if image is not None else None
        return Example(name, (dialogue,), read)

    def content(self, index: int) -> str:
        """The digest of the picture's file as it is now."""
        name, image, _ = self._entries[index]
        assert image is not None
        return self._of_file(index, name, image, lambda file: hashlib.sha256(file).hexdigest())

    def _open(self, index: int, name: str, image: str) -> Image.Image:
        return self._of_file(index, name, image, pictures.decode)

    def _of_file(self, index: int, name: str, image: str, read: Callable[[bytes], T]) -> T:
        path = self._images / image
        try:
            return read(path.read_bytes())
        except OSError as error:
            said = why(error)
        except DataError as error:
            said = str(error)
        raise DataError(f"{self._file}: entry {index} (id {name}): its image {path} cannot be decoded: {said}")


ConversationEntry = tuple[str, str | None, Dialogue]


def _read(path: Path) -> list[Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {why(error)}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: holds {type(entries).__name__}; a list of one or more conversations is expected")
    return entries


class _Listing:
    """The files of a folder tree, listed a folder at a time: checking each of 665,000 files takes minutes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, frozenset[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(self._root / folder))  # noqa: PTH208
            except OSError:
                self._names[folder] = frozenset()
        return name in self._names[folder]

    def __str__(self) -> str:
        return str(self._root)


def _checked(file: Path, number: int, entry: Any, files: _Listing) -> ConversationEntry:
    where = f"{file}: entry {number}"
    if not isinstance(entry, dict):
        raise DataError(f"{where}: is {type(entry).__name__}; an entry has 'id', 'conversations' and perhaps 'image'")
    name = str(entry.get("id", "none"))
    where = f"{where} (id {name})"
    said = entry.get("conversations")
    if not isinstance(said, list):
        raise DataError(f"{where}: its 'conversations' is {said!r:.60}; a list of turns is expected")
    texts = _turns(where, said)
    image = entry.get("image")
    if image is not None:
        if not isinstance(image, str) or not image:
            raise DataError(f"{where}: its 'image' is {image!r:.60}; a path under the image folder is expected")
        marks = [text.count(_IMAGE) for text in texts[::2]]
        if marks[0] != 1 or sum(marks) != 1:
            raise DataError(
                f"{where}: {_IMAGE} occurs {sum(marks)} times in its questions, {marks[0]} of them in the first; "
                "an entry with an image has it once, in the first"
            )
        if image not in files:
            raise DataError(f"{where}: its image {image} is not in {files}")
        texts[0] = texts[0].replace(_IMAGE, "").strip()
    return name, image, tuple(Turn(*pair) for pair in zip(texts[::2], texts[1::2], strict=True))


def _turns(where: str, said: list[Any]) -> list[str]:
    """Question, answer, question, answer, ...: their texts."""
    for place, turn in enumerate(said):
        if not isinstance(turn, dict) or turn.get("from") not in ("human", "gpt"):
            found = turn.get("from") if isinstance(turn, dict) else type(turn).__name__
            raise DataError(f"{where}: turn {place} is from {found!r}; 'human' or 'gpt' is expected")
        if not isinstance(turn.get("value"), str):
            raise DataError(f"{where}: turn {place} has the value {turn.get('value')!r:.60}; a text is expected")
    if said and said[0]["from"] == "gpt":
        said = said[1:]
    for place, turn in enumerate(said):
        if turn["from"] != ("human", "gpt")[place % 2]:
            raise DataError(f"{where}: {turn['from']!r} speaks twice in a row; 'human' and 'gpt' take turns")
    texts = [turn["value"] for turn in said[: len(said) // 2 * 2]]
    if not texts:
        raise DataError(f"{where}: holds no question with an answer")
    return texts
