"""What the harness needs of a model, in the parts between which a scheme may cut.

    P patches   V features a patch   C merged features a patch   D feature dimension
    K dimension of an attention head   T visual tokens   H width of the language model

A *vision side* takes pixels to features, a *language side* features to answers. Each is loaded separately, so that a
device reads no tensor of the language model. Nothing here imports torch: a half that needs no model runs without it.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from PIL import Image

from harness.data.sample import Question
from harness.errors import SchemeError, shown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Key = TypeVar("Key")
Kept = TypeVar("Kept")

Part = Literal["tower", "projector", "language"]
"""The parts of a checkpoint: vision tower; projector with the newline token; language model with its head."""


class Clock(Protocol):
    """Times the stages of one half; synchronises the accelerator on both edges of a stage."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Times what its body does."""
        ...


class OneAtATime:
    """What every clock of a run checks of the stages of one half: each has a name, and none begins inside another."""

    _inside: str | None = None

    @contextmanager
    def entered(self, name: str) -> Iterator[None]:
        """Inside a stage of this name.

        Raises SchemeError for a stage inside another, whose time would count twice, and for a name that is no text.
        """
        if not isinstance(name, str) or not (name and name.isprintable()):
            raise SchemeError(f"a stage's name is {shown(name)}; a text on one line is expected")
        if self._inside is not None:
            raise SchemeError(
                f"the stage {name!r} begins inside the stage {self._inside!r}; stages follow one another, because "
                "their times are added"
            )
        self._inside = name
        try:
            yield
        finally:
            self._inside = None


class Untimed(OneAtATime):
    """The clock of a request of which only the answer is wanted.

    It refuses what a clock that times would refuse, so that a mistake is found by the first answer.
    """

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Runs its body; raises SchemeError as :meth:`entered`."""
        return self.entered(name)


class Sharing(Untimed):
    """The clock of a pass that needs only answers: what one point computed of a picture is reused for the next."""


class Shared(OrderedDict[Key, Kept]):
    """What is kept of the last few pictures for the next point, by what identifies them: none of a half's weights."""


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Where the features of an image belong.

    ``grid`` is (n_h, n_w), so that P = n_h * n_w + 1 with the thumbnail. P = 1, grid (1, 1), where the model does not
    tile, or leaves the thumbnail of a single tile out. ``image_size`` is the original (height, width) in pixels.
    ``stretched`` says that patches show the picture without its aspect ratio.
    """

    grid: tuple[int, int]
    image_size: tuple[int, int]
    stretched: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Tiles:
    """An image in the form that a vision tower takes: float32 normalised pixels (P, C, H, W), and their layout.

    Patches are in the order in which the model reads them: the thumbnail first and then the tiles row by row, or the
    thumbnail last.
    """

    pixels_PCHW: "Tensor"
    layout: Layout


@dataclasses.dataclass(frozen=True, slots=True)
class Attention:
    """The attention of the tower's layer that gave the features.

    ``received_PV`` is the attention that a feature receives, averaged over heads: from the class token, or the mean
    over all features where there is none. ``keys_PVK`` are the features' keys, averaged over heads. ``class_PD`` is the
    class token at that layer, where there is one that is no feature.
    """

    received_PV: "Tensor"
    keys_PVK: "Tensor"
    class_PD: "Tensor | None" = None


@dataclasses.dataclass(frozen=True, slots=True)
class Features:
    """The visual features of one picture after the tower's own reduction, x (P, V, D) of Eq. 1.

    V may differ from picture to picture. ``attention`` is set if it was requested. ``positions_PVA`` are the features'
    coordinates on the axes of the language model's rotary embedding, int64, for models that need them.
    """

    x_PVD: "Tensor"
    layout: Layout
    attention: Attention | None = None
    positions_PVA: "Tensor | None" = None


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One question with the visual tokens (T, H) of each of its pictures."""

    pictures: "Sequence[Tensor]"
    question: Question


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote, and how much was read and written for it.

    ``prompt_tokens`` counts all that the language model read, the ``visual_tokens`` among it; ``answer_tokens`` all
    that it wrote, the token that ends the answer included.
    """

    text: str
    visual_tokens: int
    prompt_tokens: int
    answer_tokens: int


class VisionSide(Protocol):
    """Pixels to features; adapters included. Runs without gradients."""

    @property
    def name(self) -> str:
        """The model's name in the catalog."""
        ...

    @property
    def device(self) -> "torch.device":
        """Where the weights are."""
        ...

    @property
    def feature_dim(self) -> int:
        """D, the dimension of a visual feature."""
        ...

    def see(self, image: Image.Image, clock: Clock, *, attended: bool = False) -> Features:
        """The features of an RGB image; times ``preprocess`` and ``vision_encode``.

        ``attended`` also returns how the tower attended to them, from the same pass.
        """
        ...


class LanguageSide(Protocol):
    """Features to answers: the projector, the language model, and the inputs that both were trained on."""

    @property
    def name(self) -> str:
        """The model's name in the catalog."""
        ...

    @property
    def device(self) -> "torch.device":
        """Where the weights are."""
        ...

    @property
    def feature_dim(self) -> int:
        """D, the dimension of a visual feature."""
        ...

    @property
    def token_dim(self) -> int:
        """H, the width of a visual token."""
        ...

    def max_patches(self, max_pixels: int) -> int:
        """The most patches that a picture of up to ``max_pixels`` is cut into."""
        ...

    @property
    def n_features(self) -> int:
        """V, the most features that a patch may have."""
        ...

    def project(self, y_PCD: "Tensor") -> "Tensor":
        """Merged features through the projector: visual tokens (P * C, H), patch after patch."""
        ...

    def project_all(self, x_PVD: "Tensor", layout: Layout) -> "Tensor":
        """All features through the projector, (T, H), arranged as the model was trained to see them.

        Raises BitstreamError for features that are not those of an image of this layout.
        """
        ...

    def answer(self, requests: Sequence[Request], clocks: Sequence[Clock]) -> list[Answer]:
        """The greedy answer to each request; times ``prefill`` and ``generate`` on the request's clock.

        Raises BitstreamError for a question that shows a picture which the request does not have.
        """
        ...


class Backbone(Protocol):
    """What a scenario's ``backbone: module:object`` names: a model that is not part of the harness.

    Its module imports no torch: a scenario is checked, and what a run depends on is known, without. ``weights`` is the
    scenario's: None, a text that this backbone interprets, or ``random``.
    """

    def __call__(self, name: str, *, device: str, weights: str | None, max_pixels: int) -> "Models":
        """The model's parts, none of which is read yet."""
        ...

    def digests(self, weights: str | None) -> Mapping[str, str]:
        """A digest of each part's weights, by a name for people; UnavailableError if they are not installed."""
        ...

    def features_of(self, weights: str | None) -> int:
        """V, the most features that a patch has."""
        ...

    def patches_of(self, width_px: int, height_px: int, weights: str | None) -> int:
        """P, the patches that a picture of this size is cut into."""
        ...


class Models(Protocol):
    """The parts of one model, each loaded when it is first needed."""

    @property
    def name(self) -> str:
        """The name in the catalog."""
        ...

    @property
    def device(self) -> str:
        """Where the parts are loaded to."""
        ...

    @property
    def max_pixels(self) -> int:
        """The largest picture that a payload may claim; checked before anything is decoded."""
        ...

    def vision(self, adapter: Path | None = None) -> VisionSide:
        """The vision side, as trained with the adapter in a folder if one is given.

        Raises CheckpointError where weights are absent, damaged or of another model.
        """
        ...

    def language(self, adapter: Path | None = None, projector: "Mapping[str, Tensor] | None" = None) -> LanguageSide:
        """The language side, as trained with an adapter, or with another projector; raises as :meth:`vision`."""
        ...

    def fingerprint(self, part: Part) -> str:
        """The fingerprint of a part's weights, 16 hexadecimal digits; reads only that part."""
        ...

    def smaller(self, name: str | None = None, weights: str | None = None) -> "Models":
        """The smaller model that runs on a device: the catalog's for this one, or another by its name.

        Raises UnavailableError where there is none.
        """
        ...
