"""A scheme and a model that need nothing: for tests, and for people who write schemes.

They implement the contract with only numpy. The model sees brightness: its features are the mean values of squares of a
picture, its answer to a question is the option that the brightness of its visual tokens points at.

    P = 1 patch   V = 16 features   D = 4 dimensions   C features that are kept   T visual tokens   H = 8
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field

from harness.data.pictures import PAYLOAD_MAX_PIXELS
from harness.data.sample import Question, Sample
from harness.errors import BitstreamError
from harness.models.contract import Answer, Attention, Clock, Features, Layout, Part, Request
from harness.schemes.contract import DeviceHalf, Models, OperatingPoint, Payload, ServerHalf
from harness.schemes.steps import answers

_SIDE = 8
_ANSWERS_OF_YES_NO = ("No", "Yes")


class FakeVision:
    """A vision side: the four corners of each of 16 squares of a picture that is shrunk to 8 x 8."""

    name = "fake"
    device: Any = "cpu"
    feature_dim = 4

    def see(self, image: Image.Image, clock: Clock, *, attended: bool = False) -> Features:
        """The features (1, 16, 4), in 0 .. 1; attention, if requested, is the same for all."""
        with clock.stage("preprocess"):
            small = np.asarray(image.convert("L").resize((_SIDE, _SIDE)), np.float32) / 255
        with clock.stage("vision_encode"):
            x_PVD: Any = small.reshape(4, 2, 4, 2).transpose(0, 2, 1, 3).reshape(1, 16, self.feature_dim)
        attention: Any = Attention(np.full((1, 16), 1 / 16), x_PVD) if attended else None  # type: ignore[arg-type]
        return Features(x_PVD, Layout((1, 1), (image.height, image.width)), attention)


class FakeLanguage:
    """A language side whose projector repeats each feature; it answers by the mean of all visual tokens."""

    name = "fake"
    device: Any = "cpu"
    feature_dim = 4
    token_dim = 8
    n_features = 16

    def max_patches(self, max_pixels: int) -> int:  # noqa: ARG002
        """One."""
        return 1

    def project(self, y_PCD: Any) -> Any:
        """(P * C, 8) of (P, C, 4)."""
        return np.tile(np.asarray(y_PCD).reshape(-1, self.feature_dim), 2)

    def project_all(self, x_PVD: Any, layout: Layout) -> Any:
        """All features; raises BitstreamError where they are not one patch of 16."""
        if np.shape(x_PVD) != (1, 16, self.feature_dim) or layout.grid != (1, 1):
            raise BitstreamError(f"features of shape {np.shape(x_PVD)} are not those of the fake model: (1, 16, 4)")
        return self.project(x_PVD)

    def answer(self, requests: Sequence[Request], clocks: Sequence[Clock]) -> list[Answer]:
        """A letter, Yes or No; a word of the question counts as a prompt token."""
        found = []
        for request, clock in zip(requests, clocks, strict=True):
            named = request.question.pictures_named()
            if max(named, default=0) > len(request.pictures):
                raise BitstreamError(f"the question shows picture {max(named)} of {len(request.pictures)}")
            with clock.stage("prefill"):
                brightness = float(np.mean([np.mean(tokens) for tokens in request.pictures]))
            with clock.stage("generate"):
                options = tuple(request.question.options) or _ANSWERS_OF_YES_NO
                text = options[min(int(brightness * len(options)), len(options) - 1)]
            n_visual = sum(len(tokens) for tokens in request.pictures)
            found.append(Answer(text, n_visual, n_visual + len(request.question.text.split()), 2))
        return found


class FakeModels:
    """The parts of the fake model; ``asked`` records which of them were requested."""

    name = "fake"
    device = "cpu"
    max_pixels = PAYLOAD_MAX_PIXELS

    def __init__(self) -> None:
        self.asked: list[str] = []

    def vision(self, adapter: Path | None = None) -> FakeVision:  # noqa: ARG002
        """The vision side."""
        self.asked.append("vision")
        return FakeVision()

    def language(self, adapter: Path | None = None, projector: Mapping[str, Any] | None = None) -> FakeLanguage:  # noqa: ARG002
        """The language side."""
        self.asked.append("language")
        return FakeLanguage()

    def fingerprint(self, part: Part) -> str:
        """Constant."""
        return f"fake {part}"

    def smaller(self, name: str | None = None, weights: str | None = None) -> "FakeModels":  # noqa: ARG002
        """The same model: it is small enough."""
        return self


class FakePoint(OperatingPoint):
    """``levels``: into how many values each feature is quantised."""

    levels: int = Field(default=16, ge=2, le=256)


class Fake:
    """Sends quantised features, a byte each: a whole scheme, as small as one can be."""

    kind: ClassVar[str] = "fake"
    Point: ClassVar[type[OperatingPoint]] = FakePoint

    @classmethod
    def device_half(cls, models: Models, point: FakePoint) -> DeviceHalf:
        """Asks for the vision side."""
        return _Device(models.vision(), point.levels)

    @classmethod
    def server_half(cls, models: Models, point: FakePoint) -> ServerHalf:
        """Asks for the language side."""
        return _Server(models.language(), point.levels)


class FakeAlone(Fake):
    """The whole model on the device: nothing is sent, and the device half returns the answer."""

    kind = "nothing"

    @classmethod
    def device_half(cls, models: Models, point: FakePoint) -> DeviceHalf:  # noqa: ARG003
        """Asks for both sides."""
        vision, language = models.vision(), models.language()

        def half(sample: Sample, clock: Clock) -> Answer:
            tokens = [language.project(vision.see(image, clock).x_PVD) for image in sample.images()]
            return language.answer([Request(tokens, sample.question)], [clock])[0]

        return half


@dataclasses.dataclass(frozen=True)
class _Device:
    vision: Any
    levels: int

    def __call__(self, sample: Sample, clock: Clock) -> Payload:
        bodies = []
        for image in sample.images():
            seen = self.vision.see(image, clock)
            with clock.stage("encode"):
                bodies.append(np.rint(np.asarray(seen.x_PVD) * (self.levels - 1)).astype(np.uint8).tobytes())
        return Payload(Fake.kind, tuple(bodies))


@dataclasses.dataclass(frozen=True)
class _Server:
    language: Any
    levels: int

    def __call__(self, payload: Payload, questions: Sequence[Question], clock: Clock) -> list[Answer]:
        tokens = []
        for body in payload.bodies:
            with clock.stage("decode"):
                symbols = np.frombuffer(body, np.uint8)
                if symbols.size != 64 or symbols.max() >= self.levels:
                    raise BitstreamError(f"a body of {len(body)} bytes is not 64 symbols below {self.levels}")
                y_PCD = symbols.reshape(1, 16, 4) / np.float32(self.levels - 1)
            with clock.stage("project"):
                tokens.append(self.language.project(y_PCD))
        return answers(self.language, tokens, questions, clock)
