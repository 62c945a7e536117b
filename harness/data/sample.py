"""A sample: an image and a question about it."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeVar

from PIL import Image

from harness.data import pictures
from harness.errors import DataError

Kind = Literal["choice", "yes_no", "open"]
T = TypeVar("T")

MARK = re.compile(r"<image (\d+)>")
"""Where a marked question shows its k-th picture, k from 1."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The text of a request, which is all that the server half gets besides the payload.

    ``options`` maps letters to texts, in order; it is empty for yes/no and open questions. ``hint`` is context that
    some benchmarks give above the question. ``marked``: the texts say with ``<image k>`` where the k-th picture stands;
    otherwise pictures stand before the text, and such marks are plain text. ``pictures`` is how many it is about.
    """

    text: str
    kind: Kind
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hint: str = ""
    marked: bool = False
    pictures: int = 1

    def pictures_named(self) -> list[int]:
        """The k of every ``<image k>`` in a marked question, in the order of hint, text and options; else nothing."""
        texts = (self.hint, self.text, *self.options.values()) if self.marked else ()
        return [int(k) for text in texts for k in MARK.findall(text)]

    @property
    def text_bytes(self) -> int:
        """The bytes that a device sends of the question's text, in UTF-8: hint, text and options, each on a line.

        An option is ``A. text``. The words that a model's prompt puts around these are the server's own.
        """
        lines = [self.hint] if self.hint else []
        lines += [self.text, *(f"{letter}. {option}" for letter, option in self.options.items())]
        return len("\n".join(lines).encode())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row of a benchmark: an image, a question about it, and the truth.

    ``image_bytes`` is the original file, byte for byte; its length is what server-only inference sends. A question
    about several pictures has the files of all but the first in ``more_images``.
    ``image_id`` identifies the picture or pictures by their files' bytes (:func:`harness.data.pictures.digest`):
    samples that show the same files share it, and no others. ``group`` is what the metric pairs up (MME's two
    questions on an image, MMBench's rotations); elsewhere it equals ``id``. ``truth`` is an option's letter, ``Yes`` or
    ``No``, or free text, after the question's kind. ``max_pixels`` is the largest picture that is decoded.
    """

    id: str
    image_bytes: bytes
    question: Question
    truth: str
    category: str
    group: str
    more_images: tuple[bytes, ...] = ()
    image_id: str = dataclasses.field(init=False, compare=False)
    max_pixels: int = dataclasses.field(default=pictures.MAX_PIXELS, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_id", pictures.digest(self.files))
        if self.question.pictures != len(self.files):
            object.__setattr__(self, "question", dataclasses.replace(self.question, pictures=len(self.files)))

    @property
    def files(self) -> tuple[bytes, ...]:
        """The original files of all pictures, in order."""
        return (self.image_bytes, *self.more_images)

    @property
    def original_bytes(self) -> int:
        """The bytes of the original files of all pictures together."""
        return sum(map(len, self.files))

    @property
    def sizes_px(self) -> list[tuple[int, int]]:
        """Width and height of each picture as shown, from its header alone; raises as :meth:`images` does."""
        return [(found.width_px, found.height_px) for found in self._each(pictures.header)]

    def image(self) -> Image.Image:
        """The only picture as 8-bit RGB; raises as :meth:`images` does."""
        assert not self.more_images, f"sample {self.id} shows {len(self.files)} pictures; images() has them all"
        return self.images()[0]

    def images(self) -> list[Image.Image]:
        """The pictures as 8-bit RGB (see :mod:`harness.data.pictures`); raises DataError for one that is not read."""
        return self._each(pictures.decode)

    @contextlib.contextmanager
    def at_fault(self) -> Iterator[None]:
        """Adds this sample's name to a DataError that is raised inside."""
        try:
            yield
        except DataError as error:
            raise DataError(f"sample {self.id}: {error}") from None

    def _each(self, read: Callable[..., T]) -> list[T]:
        found = []
        for number, file in enumerate(self.files, 1):
            try:
                found.append(read(file, max_pixels=self.max_pixels))
            except DataError as error:
                which = f"picture {number} of {len(self.files)}" if self.more_images else "its picture"
                raise DataError(f"sample {self.id}: {which} cannot be decoded: {error}") from None
        return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """What is known of a sample without decoding its pictures: see :class:`Sample` for each.

    ``id`` is unique among all samples of a study, ``own_id`` in its benchmark. ``sizes_px`` has the width and height of
    each picture as shown.
    """

    id: str
    own_id: str
    image_id: str
    benchmark: str
    category: str
    group: str
    sizes_px: tuple[tuple[int, int], ...]
    original_bytes: int
    text_bytes: int

    @classmethod
    def of(cls, sample: Sample, benchmark: str) -> "Name":
        """The name of a loaded sample; raises DataError where a picture's header cannot be read."""
        return cls(
            id=sample.id,
            own_id=sample.id,
            image_id=sample.image_id,
            benchmark=benchmark,
            category=sample.category,
            group=sample.group,
            sizes_px=tuple(sample.sizes_px),
            original_bytes=sample.original_bytes,
            text_bytes=sample.question.text_bytes,
        )

    @property
    def width_px(self) -> int:
        """The width of the first picture as shown."""
        return self.sizes_px[0][0]

    @property
    def height_px(self) -> int:
        """The height of the first picture as shown."""
        return self.sizes_px[0][1]
