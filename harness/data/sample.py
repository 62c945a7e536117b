"""What is asked about one image."""

import dataclasses
import io
from collections.abc import Mapping
from typing import Literal

from PIL import Image, UnidentifiedImageError

from harness.errors import DataError

Kind = Literal["choice", "yes_no", "open"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The text of a request: all that the server half knows besides the payload.

    ``options`` maps letters to texts, in order; it is empty for yes/no and open questions. ``hint`` is context that
    some benchmarks give above the question.
    """

    text: str
    kind: Kind
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hint: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row of a benchmark: an image, a question about it, and the truth.

    ``image_bytes`` is the original file, byte for byte; its length is what server-only inference sends.
    ``image_id`` is shared by the samples that show the same picture. ``group`` is what the metric pairs up (MME's two
    questions on an image, MMBench's rotations); elsewhere it equals ``id``. ``truth`` is an option's letter, ``Yes`` or
    ``No``, or free text, after the question's kind.
    """

    id: str
    image_id: str
    image_bytes: bytes
    question: Question
    truth: str
    category: str
    group: str

    def image(self) -> Image.Image:
        """The picture as 8-bit RGB; raises DataError where the bytes are not an image that Pillow can read."""
        try:
            with Image.open(io.BytesIO(self.image_bytes)) as picture:
                return picture.convert("RGB")
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise DataError(
                f"sample {self.id}: its {len(self.image_bytes)} image bytes cannot be decoded: {error}"
            ) from None
