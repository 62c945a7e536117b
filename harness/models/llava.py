"""The vision and the language side of models of LLaVA's kind: a tower, a projector, a language model.

    P patches   V features a patch   C merged features a patch   D feature dimension
    T visual tokens   H width of the language model

The modules are transformers' own. They are called one by one, because a scheme cuts between them, because a device
loads only its own part, and because transformers' own forward pass cannot take merged features. What is specific to a
model is in its family (:mod:`harness.models.family`).
"""

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from harness.data.sample import Question
from harness.errors import BitstreamError, SchemeError
from harness.models import checkpoint, tower
from harness.models.adapter import Lora
from harness.models.contract import (
    Answer,
    Attention,
    Clock,
    Features,
    Layout,
    Part,
    Request,
    Shared,
    Sharing,
    Tiles,
    Untimed,
)
from harness.models.engine import Engine, Prompt, TransformersEngine
from harness.models.family import Family, Projector, whole_parts
from harness.models.prompts import Template

_SEEN_AT_MOST = 4
"""Pictures whose features are shared between points: those of one question, mostly."""


class LlavaVision:
    """A VisionSide (see :mod:`harness.models.contract`) around a tower."""

    def __init__(self, name: str, family: Family, config: Any, vision_tower: Any, lora: Lora | None = None) -> None:
        self.name = name
        self.config = config
        self.vision_tower = vision_tower
        self.cut = family.cut(config)
        self.tiling = family.tiling(config)
        self.n_features = self.cut.n_features
        self.feature_dim = self.cut.feature_dim
        self._lora = lora
        self._seen: Shared[tuple[bytes, tuple[int, int], bool], Features] = Shared()

    def share(self, other: "LlavaVision") -> None:
        """From now on, two towers share their cached features, if both encode every picture to the same bits."""
        ours, theirs = (side.vision_tower.state_dict() for side in (self, other))
        if (
            (self._lora, other._lora) == (None, None)
            and (self.cut, self.tiling, self.device) == (other.cut, other.tiling, other.device)
            and self.config.vision_config.to_dict() == other.config.vision_config.to_dict()
            and ours.keys() == theirs.keys()
            and all(ours[name].dtype == theirs[name].dtype and ours[name].equal(theirs[name]) for name in ours)
        ):
            self._seen = other._seen

    @property
    def device(self) -> torch.device:
        """Where the tower's weights are."""
        found: torch.device = next(self.vision_tower.parameters()).device
        return found

    def preprocess(self, image: Image.Image) -> Tiles:
        """The patches of an RGB image, on the CPU (see :mod:`harness.models.tiling`)."""
        return self.tiling(image)

    @torch.inference_mode()
    def see(self, image: Image.Image, clock: Clock, *, attended: bool = False) -> Features:
        """The features of an RGB image, at the tower's dtype; times ``preprocess`` and ``vision_encode``.

        With the clock :class:`Sharing`, a picture that was encoded recently is not encoded again.
        """
        if isinstance(clock, Sharing):
            key = hashlib.blake2b(image.tobytes(), digest_size=16).digest(), image.size, attended
            if key not in self._seen:
                self._seen[key] = self.see(image, Untimed(), attended=attended)
                while len(self._seen) > _SEEN_AT_MOST:
                    self._seen.popitem(last=False)
            self._seen.move_to_end(key)
            return self._seen[key]
        with clock.stage("preprocess"):
            tiles = self.preprocess(image)
        with clock.stage("vision_encode"), _beside(self._lora):
            if attended:
                x_PVD, attention = self.encode_attended(tiles)
                return Features(x_PVD, tiles.layout, attention)
            return Features(self.encode(tiles), tiles.layout)

    @torch.inference_mode()
    def encode(self, tiles: Tiles) -> Tensor:
        """The visual features x (P, V, D) of an image's patches, at the tower's dtype."""
        return self.features(tiles.pixels_PCHW.to(self.device, non_blocking=True))

    @torch.inference_mode()
    def encode_attended(self, tiles: Tiles) -> tuple[Tensor, Attention]:
        """The visual features x (P, V, D), and how the layer that gave them attended to each, from one pass."""
        pixels_PCHW = tiles.pixels_PCHW.to(self.device, non_blocking=True)
        return tower.cut_attended(self.vision_tower, pixels_PCHW, self.cut)

    def features(self, pixels_PCHW: Tensor) -> Tensor:
        """Visual features (P, V, D) of normalised pixels on the tower's device; differentiable."""
        return tower.cut_features(self.vision_tower, pixels_PCHW, self.cut)


class LlavaLanguage:
    """A LanguageSide (see :mod:`harness.models.contract`): projector, embedding table and, after them, an engine.

    ``embedding`` may be given without the layers, since another engine also takes embeddings.
    """

    def __init__(
        self,
        name: str,
        family: Family,
        config: Any,
        tokenizer: Any,
        projector: Projector,
        embedding: nn.Module,
        engine: Engine,
        lora: Lora | None = None,
    ) -> None:
        self.name = name
        self.family = family
        self.config = config
        self.tokenizer = tokenizer
        self.template = family.template
        cut = family.cut(config)
        self.n_features = cut.n_features
        self.feature_dim = cut.feature_dim
        self.token_dim: int = config.text_config.hidden_size
        self._projector = projector
        self._embedding = embedding
        self._engine = engine
        self._lora = lora
        self._tiling = family.tiling(config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self._projector.parameters()).device

    @property
    def projector(self) -> Any:
        """What takes visual features to tokens."""
        return self._projector.multi_modal_projector

    def max_patches(self, max_pixels: int) -> int:
        """The most patches that a picture of up to ``max_pixels`` is cut into."""
        return self._tiling.max_patches(max_pixels)

    @torch.inference_mode()
    def project(self, y_PCD: Tensor) -> Tensor:
        """Merged features through the projector, (P * C, H); of any float dtype, on any device."""
        return self._projected(y_PCD).flatten(0, 1)

    @torch.inference_mode()
    def project_all(self, x_PVD: Tensor, layout: Layout) -> Tensor:
        """All features, (T, H), in the model's own arrangement.

        Raises BitstreamError for features that are not those of an image of this layout.
        """
        height, width = layout.image_size
        n_h, n_w = self._tiling.grid(height, width)
        wanted = (self._tiling.n_patches(n_h, n_w), self.n_features, self.feature_dim)
        if tuple(x_PVD.shape) != wanted or layout.grid != (n_h, n_w):
            raise BitstreamError(
                f"features of shape {tuple(x_PVD.shape)} on a {layout.grid[0]} x {layout.grid[1]} grid are not those "
                f"that {self.name} has of a {width} x {height} image: {wanted} on {n_h} x {n_w}"
            )
        return self.arranged(self._projected(x_PVD), layout)

    def arranged(self, tokens_PVH: Tensor, layout: Layout) -> Tensor:
        """All of an image's projected tokens as the model reads them, (T, H); differentiable."""
        return self.family.arranged(self.config, tokens_PVH, self._projector.image_newline, layout)

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request], clocks: Sequence[Clock]) -> list[Answer]:
        """The greedy answer to each request; times ``prefill`` and ``generate`` on the request's clock."""
        for request in requests:
            named = request.question.pictures_named()
            if max(named, default=0) > len(request.pictures):
                raise BitstreamError(
                    f"the question shows picture {max(named)}, and the payload holds {len(request.pictures)}"
                )
        prompts = [functools.partial(self._laid_out, request.pictures, request.question) for request in requests]
        with _beside(self._lora):
            written = self._engine.answer(prompts, clocks)
        if len(written) != len(prompts):
            raise SchemeError(
                f"the engine {type(self._engine).__name__} answered {len(written)} of {len(prompts)} prompts; an "
                "answer to each is expected"
            )
        found = []
        for request, clock, tokens in zip(requests, clocks, written, strict=True):
            with clock.stage("generate"):
                text = self.tokenizer.decode(tokens.answer_ids, skip_special_tokens=True)
            found.append(Answer(text, _visual_tokens(request), tokens.n_prompt, tokens.n_written))
        return found

    def prompt(self, pictures: Sequence[Tensor], question: Question) -> Tensor:
        """The prompt's embeddings, up to where the answer begins: (text and visual tokens, H); differentiable.

        ``pictures`` are the visual tokens (T, H) of each. Raises ValueError for a question that shows more pictures.
        """
        return self._laid_out(pictures, question).embeds_TH

    def _laid_out(self, pictures: Sequence[Tensor], question: Question) -> Prompt:
        parts = self.template.parts(question, len(pictures))
        ids = [self.tokenizer.encode(part, add_special_tokens=False).ids for part in parts if isinstance(part, str)]
        text = torch.tensor([token for of_part in ids for token in of_part], device=self.device)
        text_TH = self._embedding(text)
        texts = iter(text_TH.split([len(of_part) for of_part in ids]))
        laid = [next(texts) if isinstance(part, str) else pictures[part].to(text_TH) for part in parts]
        ends = itertools.accumulate(map(len, laid))
        places = zip(parts, laid, ends, strict=True)
        seen = tuple((end - len(piece), end) for part, piece, end in places if not isinstance(part, str))
        return Prompt(torch.cat(laid), seen)

    def _projected(self, x_PVD: Tensor) -> Tensor:
        return self.family.through(self.projector, x_PVD.to(self.device))


def _visual_tokens(request: Request) -> int:
    """The visual tokens of a prompt: of each picture once, or as often as the question shows it."""
    named = request.question.pictures_named()
    once = [k for k in range(1, len(request.pictures) + 1) if k not in named]
    return sum(request.pictures[k - 1].shape[0] for k in (*once, *named))


def _beside(lora: Lora | None) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if lora is None else lora.on()


class Llava(LlavaVision, LlavaLanguage):
    """Both sides around one whole model of transformers, for training and for making the zoo.

    A subclass says of which family it ``is_of``.
    """

    is_of: ClassVar[Family]

    def __init__(
        self, name: str, model: Any, tokenizer: Any, *, max_new_tokens: int = 16, family: Family | None = None
    ) -> None:
        family = family or self.is_of
        self.model = model
        declared = model.generation_config.eos_token_id
        stop = [declared] if isinstance(declared, int) else (declared or [])
        config, body = model.config, model.model
        LlavaVision.__init__(self, name, family, config, body.vision_tower)
        parts = whole_parts(model)
        engine = TransformersEngine(
            parts["language"],
            stop=stop_ids(tokenizer, family.template, stop),
            max_new_tokens=max_new_tokens,
            masks=family.masks,
        )
        LlavaLanguage.__init__(
            self,
            name,
            family,
            config,
            tokenizer,
            parts["projector"],  # type: ignore[arg-type]
            model.get_input_embeddings(),
            engine,
        )

    @property
    def projector(self) -> Any:
        """What takes visual features to tokens: for training, peft puts a copy in the place of the model's own."""
        return self.model.model.multi_modal_projector

    def fingerprints(self) -> dict[Part, str]:
        """The fingerprint of each part's weights; see :func:`harness.models.checkpoint.fingerprint`."""
        return {part: checkpoint.fingerprint(module) for part, module in whole_parts(self.model).items()}


def stop_ids(tokenizer: Any, template: Template, declared: Sequence[int]) -> frozenset[int]:
    """The tokens that end an answer: the template's, and those that the checkpoint declares."""
    return frozenset([tokenizer.token_to_id(template.stop), *declared])
