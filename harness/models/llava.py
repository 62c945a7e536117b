"""What the LLaVA models have in common: a vision tower, a projector, a language model that reads visual tokens.

    P patches   V features a patch   C merged features a patch   D feature dimension
    T visual tokens   H width of the language model

The modules are transformers' own. They are built and called one by one, because a scheme cuts between them, because a
device loads its own part alone, and because transformers' way around them cannot take merged features.
"""

import contextlib
import copy
import dataclasses
import functools
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModel

from harness import catalog
from harness.data.pictures import PAYLOAD_MAX_PIXELS
from harness.data.sample import Question
from harness.errors import BitstreamError, CheckpointError, UnavailableError, unknown_name
from harness.models import checkpoint, files, tower
from harness.models.adapter import Lora
from harness.models.contract import (
    Answer,
    Attention,
    Clock,
    Features,
    Layout,
    Part,
    Request,
    Sharing,
    Tiles,
    Untimed,
)
from harness.models.engine import Engine, TransformersEngine
from harness.models.pieces import PieceTokenizer
from harness.models.prompts import Template
from harness.models.tiling import PaddedTile, Tiling

_auto: Any = AutoModel
RANDOM = "random"
"""The weights of a scenario that is about latency alone."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models of one class in transformers, and what is their own.

    ``full_size`` gives the architecture of a published name without the hub; it raises CheckpointError for others.
    ``tiling`` says how an image is cut; ``arranged`` lays all of an image's projected tokens (P, V, H) out as the
    language model reads them, (T, H), differentiably; ``projector`` is transformers' class.
    """

    config_class: Any
    model_class: Any
    template: Template
    projector: Any
    has_newline: bool
    full_size: Callable[[str], Any]
    tiling: Callable[[Any], Tiling | PaddedTile]
    arranged: Callable[[Any, Tensor, Tensor | None, Layout], Tensor]


class Projector(nn.Module):
    """The projector and, where the model has one, the token that closes a row of features."""

    def __init__(self, multi_modal_projector: nn.Module, image_newline: nn.Parameter | None = None) -> None:
        super().__init__()
        self.multi_modal_projector = multi_modal_projector
        self.image_newline = image_newline


class Language(nn.Module):
    """The language model and its head; ``tied`` where the head shares the embedding's weights."""

    def __init__(self, model: Any, lm_head: nn.Linear, *, tied: bool) -> None:
        super().__init__()
        self.model = model
        self.lm_head = lm_head
        self.tied = tied


_SEEN_AT_MOST = 4
"""Pictures whose features are shared between points: those of one question, mostly."""


def _n_features(config: Any) -> int:
    """V, the features of a patch."""
    side: int = config.vision_config.image_size // config.vision_config.patch_size
    return side**2


class LlavaVision:
    """A VisionSide (see :mod:`harness.models.contract`) around a tower."""

    def __init__(self, name: str, family: Family, config: Any, vision_tower: Any, lora: Lora | None = None) -> None:
        self.name = name
        self.config = config
        self.vision_tower = vision_tower
        self.tiling = family.tiling(config)
        self.n_features = _n_features(config)
        self.feature_dim: int = config.vision_config.hidden_size
        self._lora = lora
        self._seen: OrderedDict[tuple[bytes, tuple[int, int], bool], Features] = OrderedDict()

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

        With the clock :class:`Sharing` a picture that was seen shortly before is not encoded again.
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
        return tower.attended_features(
            self.vision_tower, pixels_PCHW, self.config.vision_feature_layer, drop_cls=self._drops_cls
        )

    def features(self, pixels_PCHW: Tensor) -> Tensor:
        """Visual features (P, V, D) of normalised pixels on the tower's device; differentiable."""
        return tower.features(
            self.vision_tower, pixels_PCHW, self.config.vision_feature_layer, drop_cls=self._drops_cls
        )

    @property
    def _drops_cls(self) -> bool:
        return bool(self.config.vision_feature_select_strategy == "default")


class LlavaLanguage:
    """A LanguageSide (see :mod:`harness.models.contract`): projector, embedding table and, behind them, an engine.

    ``embedding`` may be there without the layers: another engine reads prompts as embeddings too.
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
        self.n_features = _n_features(config)
        self.feature_dim: int = config.vision_config.hidden_size
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
        prompts = [functools.partial(self.prompt, request.pictures, request.question) for request in requests]
        with _beside(self._lora):
            written = self._engine.answer(prompts, clocks)
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
        parts = self.template.parts(question, len(pictures))
        ids = [self.tokenizer.encode(part, add_special_tokens=False).ids for part in parts if isinstance(part, str)]
        text = torch.tensor([token for of_part in ids for token in of_part], device=self.device)
        text_TH = self._embedding(text)
        texts = iter(text_TH.split([len(of_part) for of_part in ids]))
        return torch.cat([next(texts) if isinstance(part, str) else pictures[part].to(text_TH) for part in parts])

    def _projected(self, x_PVD: Tensor) -> Tensor:
        tokens_PVH: Tensor = self.projector(x_PVD.to(self.device, self.projector.linear_1.weight.dtype))
        return tokens_PVH


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

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        weights: str | os.PathLike[str] | None = None,
    ) -> Self:
        """The whole model of a name; see :class:`LlavaModels` for the arguments and what is raised."""
        models = LlavaModels(cls.is_of, name, device=device, dtype=dtype, weights=weights)
        return cls(name, models.whole(), models.tokenizer)

    @property
    def projector(self) -> Any:
        """What takes visual features to tokens: for training, peft puts a copy in the place of the model's own."""
        return self.model.model.multi_modal_projector

    def fingerprints(self) -> dict[Part, str]:
        """What tells the weights of each part from others; see :func:`harness.models.checkpoint.fingerprint`."""
        return {part: checkpoint.fingerprint(module) for part, module in whole_parts(self.model).items()}


def whole_parts(model: Any) -> dict[Part, nn.Module]:
    """The parts of a whole model of transformers, as modules that share its weights."""
    body = model.model
    return {
        "tower": body.vision_tower,
        "projector": Projector(body.multi_modal_projector, getattr(body, "image_newline", None)),
        "language": Language(body.language_model, model.lm_head, tied=bool(model.config.tie_word_embeddings)),
    }


class LlavaModels:
    """The Models (see :mod:`harness.models.contract`) of a name in a family: each part is read when it is asked for.

    ``dtype`` None is float32 on a CPU, bfloat16 elsewhere. ``weights`` is a folder or a hub id to use instead of the
    name's own, or ``"random"``: the architecture alone, for latency work, with the checkpoint's config and tokenizer
    where those are on this machine. ``engine`` makes what answers of the language part, which it need not read.

    Raises UnavailableError where the weights are not on this machine, CheckpointError where their configuration is
    damaged or of another model.
    """

    def __init__(
        self,
        family: Family,
        name: str,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        weights: str | os.PathLike[str] | None = None,
        max_new_tokens: int = 16,
        max_pixels: int = PAYLOAD_MAX_PIXELS,
    ) -> None:
        self.name = name
        self.max_pixels = max_pixels
        self.family = family
        self.device = str(device)
        self._torch_device = torch.device(device)
        self._dtype = checkpoint.dtype_of(dtype, self._torch_device)
        self._random = weights == RANDOM
        self._max_new_tokens = max_new_tokens
        if name not in files.SOURCES:
            raise CheckpointError(unknown_name("model", name, files.SOURCES))
        self.folder: Path | None
        try:
            source = files.SOURCES[name] if self._random or weights is None else weights
            self.folder = files.locate(name, source)
            self.config = checkpoint.read_config(self.folder, family.config_class)
            _check_config(self.folder, family, self.config)
        except UnavailableError:
            if not self._random:
                raise
            self.folder, self.config = None, family.full_size(name)
        self._parts: dict[tuple[Any, ...], Any] = {}

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer, or one that gives about as many tokens where there is none."""
        if self.folder is None:
            return PieceTokenizer(self.config.text_config.vocab_size)
        return checkpoint.read_tokenizer(self.folder, self.family.template.special, self.config.text_config.vocab_size)

    @property
    def declared_stop(self) -> list[int]:
        """The tokens that the checkpoint declares to end an answer."""
        return [] if self.folder is None else checkpoint.stop_tokens(self.folder, self.config)

    def vision(self, adapter: Path | None = None) -> LlavaVision:
        """The vision side; reads no tensor of the other parts, and opens no file without one of the tower's."""
        key = ("vision", adapter)
        if key not in self._parts:
            module, lora = self._adapted("tower", adapter)
            self._parts[key] = LlavaVision(self.name, self.family, self.config, module, lora)
        found: LlavaVision = self._parts[key]
        return found

    def language(
        self,
        adapter: Path | None = None,
        projector: Mapping[str, Tensor] | None = None,
        engine: Callable[["LlavaModels"], Engine] | None = None,
    ) -> LlavaLanguage:
        """The language side, with a projector's own weights where they are given.

        Another ``engine`` than transformers' layers gets the embedding table and the projector read, and no layer.
        """
        key = ("language", adapter, engine)
        if key not in self._parts:
            lora = None
            # What is small is looked at before gigabytes are read.
            stop = stop_ids(self.tokenizer, self.family.template, self.declared_stop)
            if engine is None:
                module, lora = self._adapted("language", adapter)
                embedding = module.model.embed_tokens
                runs: Engine = TransformersEngine(module, stop=stop, max_new_tokens=self._max_new_tokens)
            else:
                embedding, runs = self._embedding(), engine(self)
            self._parts[key] = LlavaLanguage(
                self.name,
                self.family,
                self.config,
                self.tokenizer,
                self._projector(adapter),
                embedding,
                runs,
                lora,
            )
        found: LlavaLanguage = self._parts[key]
        return found if projector is None else self._with_projector(found, projector)

    def fingerprint(self, part: Part) -> str:
        """What tells a part's weights from others; reads that part alone."""
        if self._random or self.folder is None:
            return RANDOM
        return files.fingerprint(self.folder, part)

    def smaller(self, name: str | None = None, weights: str | None = None) -> "LlavaModels":
        """The model that a device runs by itself: the catalog's for this one, or another by its name."""
        name = catalog.smaller(self.name, name)
        key = ("smaller", name, weights)
        if key not in self._parts:
            load = catalog.load("backbone", name, catalog.BACKBONES)
            self._parts[key] = load(name, device=self.device, weights=weights, max_pixels=self.max_pixels)
        found: LlavaModels = self._parts[key]
        return found

    def backbone(self) -> Llava:
        """Both sides around the whole model."""
        return Llava(self.name, self.whole(), self.tokenizer, family=self.family)

    def whole(self) -> Any:
        """The model of transformers with all of its parts."""
        build = functools.partial(
            self.family.model_class._from_config, self.config, dtype=self._dtype, attn_implementation="sdpa"
        )
        if self._random or self.folder is None:
            with self._torch_device:
                return build().eval()
        with checkpoint.empty():
            model = build()
        for part, module in whole_parts(model).items():
            checkpoint.fill(self.folder, part, module, self._torch_device, self._dtype)
            if part == "projector" and module.image_newline is not None:
                model.model.image_newline = module.image_newline
        model.generation_config.eos_token_id = self.declared_stop
        return model.to(self._torch_device).eval()

    def _adapted(self, part: Part, adapter: Path | None) -> tuple[Any, Lora | None]:
        """A part as trained with an adapter: merged into a copy, or beside the weights of a part that is large."""
        module = self._module(part)
        if adapter is None:
            return module, None
        lora = Lora.read(adapter, part, module, self.name)
        if lora.is_worth_a_copy(module):
            return lora.merged(module), None
        return module, lora.beside(module)

    def _module(self, part: Part) -> Any:
        key = ("module", part)
        if key not in self._parts:
            build = functools.partial(_build, self.family, self.config, part)
            if self._random or self.folder is None:
                module = checkpoint.with_random_weights(build, self._torch_device, self._dtype)
            else:
                with checkpoint.empty():
                    module = build()
                module = checkpoint.fill(self.folder, part, module, self._torch_device, self._dtype)
            self._parts[key] = module.requires_grad_(False)
        return self._parts[key]

    def _projector(self, adapter: Path | None) -> Projector:
        module: Projector = self._module("projector")
        if adapter is None:
            return module
        weights = Lora.read_projector(adapter, module.multi_modal_projector, self.name)
        return _replaced(module, weights, self.name)

    def _with_projector(self, side: LlavaLanguage, weights: Mapping[str, Tensor]) -> LlavaLanguage:
        other = copy.copy(side)
        other._projector = _replaced(side._projector, weights, self.name)
        return other

    def _embedding(self) -> nn.Module:
        """The embedding table alone."""
        text = self.config.text_config

        def build() -> nn.Module:
            part = nn.Module()
            part.model = nn.Module()
            part.model.embed_tokens = nn.Embedding(text.vocab_size, text.hidden_size)
            return part

        if self._random or self.folder is None:
            module = checkpoint.with_random_weights(build, self._torch_device, self._dtype)
        else:
            with checkpoint.empty():
                module = build()
            module = checkpoint.fill(self.folder, "language", module, self._torch_device, self._dtype)
        embedding: nn.Module = module.requires_grad_(False).model.embed_tokens  # type: ignore[union-attr,assignment]
        return embedding


def _build(family: Family, config: Any, part: Part) -> nn.Module:
    """A part's module, on whatever device and at whatever dtype are the default."""
    if part == "tower":
        module: nn.Module = _auto.from_config(
            config.vision_config, attn_implementation="sdpa", dtype=torch.get_default_dtype()
        )
        return module
    width = config.text_config.hidden_size
    if part == "projector":
        newline = nn.Parameter(torch.randn(width) * width**-0.5) if family.has_newline else None
        return Projector(family.projector(config), newline)
    layers = _auto.from_config(config.text_config, attn_implementation="sdpa", dtype=torch.get_default_dtype())
    head = nn.Linear(width, config.text_config.vocab_size, bias=False)
    return Language(layers, head, tied=bool(config.tie_word_embeddings))


def _replaced(module: Projector, weights: Mapping[str, Tensor], name: str) -> Projector:
    """The projector with other weights; raises CheckpointError for those of another."""
    projector = copy.deepcopy(module.multi_modal_projector)
    try:
        projector.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise CheckpointError(f"not the projector of {name}: {str(error).splitlines()[-1].strip()}") from None
    return Projector(projector.requires_grad_(False), module.image_newline)


def _check_config(folder: Path, family: Family, config: Any) -> None:
    """Refuses what a config.json may say and this harness does not run."""
    vision, text, path = config.vision_config, config.text_config, folder / "config.json"
    for name in _SIZES:
        part, _, key = name.rpartition(".")
        value = getattr(getattr(config, part), key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"{path}: {name} is {value!r}; a whole number from 1 on is expected")
    layer, n_layers = config.vision_feature_layer, vision.num_hidden_layers
    if not isinstance(layer, int) or isinstance(layer, bool):
        raise CheckpointError(f"{path}: vision_feature_layer is {layer!r}; the number of one layer is expected")
    if not -n_layers - 1 <= layer <= n_layers:
        raise CheckpointError(
            f"{path}: vision_feature_layer is {layer}; a tower of {n_layers} layers has {-n_layers - 1} to {n_layers}"
        )
    strategy = config.vision_feature_select_strategy
    if strategy not in ("default", "full"):
        raise CheckpointError(f"{path}: vision_feature_select_strategy is {strategy!r}; it is default or full")
    for name, of, heads in (
        ("vision_config.hidden_size", vision.hidden_size, vision.num_attention_heads),
        ("text_config.hidden_size", text.hidden_size, text.num_attention_heads),
        ("text_config.num_attention_heads", text.num_attention_heads, text.num_key_value_heads),
    ):
        if of % heads:
            raise CheckpointError(f"{path}: {name} is {of}; a multiple of the {heads} {_HEADS[name]} is expected")
    if vision.image_size < vision.patch_size:
        raise CheckpointError(
            f"{path}: vision_config has image_size {vision.image_size} and patch_size {vision.patch_size}; a patch is "
            "no larger than an image"
        )
    try:
        family.tiling(config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


_SIZES = (
    *(f"vision_config.{key}" for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")),
    *(f"vision_config.{key}" for key in ("image_size", "patch_size", "intermediate_size")),
    *(f"text_config.{key}" for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")),
    *(f"text_config.{key}" for key in ("num_key_value_heads", "vocab_size", "intermediate_size")),
)
_HEADS = {
    "vision_config.hidden_size": "num_attention_heads",
    "text_config.hidden_size": "num_attention_heads",
    "text_config.num_attention_heads": "num_key_value_heads",
}


def stop_ids(tokenizer: Any, template: Template, declared: Sequence[int]) -> frozenset[int]:
    """The tokens that end an answer: the template's, and those that the checkpoint declares."""
    return frozenset([tokenizer.token_to_id(template.stop), *declared])
