"""What is asked about one image."""

import dataclasses
import io
import re
from collections.abc import Mapping
from typing import Literal

from PIL import Image, UnidentifiedImageError

from harness.errors import DataError

Kind = Literal["choice", "yes_no", "open"]

MARK = re.compile(r"<image (\d+)>")
"""Where a marked question shows its k-th picture, k from 1."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The text of a request: all that the server half knows besides the payload.

    ``options`` maps letters to texts, in order; it is empty for yes/no and open questions. ``hint`` is context that
    some benchmarks give above the question. ``marked``: the texts say with ``<image k>`` where the k-th picture stands;
    elsewhere pictures stand before the text, and such words are words.
    """

    text: str
    kind: Kind
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hint: str = ""
    marked: bool = False

    def pictures_named(self) -> list[int]:
        """The k of every ``<image k>`` in a marked question, in the order of hint, text and options; else nothing."""
        texts = (self.hint, self.text, *self.options.values()) if self.marked else ()
        return [int(k) for text in texts for k in MARK.findall(text)]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row of a benchmark: an image, a question about it, and the truth.

    ``image_bytes`` is the original file, byte for byte; its length is what server-only inference sends. A question
    about several pictures has the files of all but the first in ``more_images``.
    ``image_id`` is shared by the samples that show the same picture or pictures. ``group`` is what the metric pairs up
    (MME's two questions on an image, MMBench's rotations); elsewhere it equals ``id``. ``truth`` is an option's letter,
    ``Yes`` or ``No``, or free text, after the question's kind.
    """

    id: str
    image_id: str
    image_bytes: bytes
    question: Question
    truth: str
    category: str
    group: str
    more_images: tuple[bytes, ...] = ()

    @property
    def files(self) -> tuple[bytes, ...]:
        """The original files of all pictures, in order."""
        return (self.image_bytes, *self.more_images)

    def image(self) -> Image.Image:
        """The only picture as 8-bit RGB; raises as :meth:`images` does."""
        assert not self.more_images, f"sample {self.id} shows {len(self.files)} pictures; images() has them all"
        return self.images()[0]

    def images(self) -> list[Image.Image]:
        """The pictures as 8-bit RGB; raises DataError where bytes are not an image that Pillow can read."""
        return [self._decoded(file) for file in self.files]

    def _decoded(self, file: bytes) -> Image.Image:
        try:
            with Image.open(io.BytesIO(file)) as picture:
                return picture.convert("RGB")
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise DataError(f"sample {self.id}: its {len(file)} image bytes cannot be decoded: {error}") from None
