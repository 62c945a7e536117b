"""Models of a family by name: each part is loaded when it is first needed, and what cannot be run is refused before.

H width of the language model
"""

import copy
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import torch
from torch import Tensor, nn
from transformers import AutoModel

from harness import catalog
from harness.data.pictures import PAYLOAD_MAX_PIXELS
from harness.errors import CheckpointError, UnavailableError, shown, unknown_name
from harness.models import checkpoint, files
from harness.models.adapter import Lora
from harness.models.contract import Part
from harness.models.engine import Engine, TransformersEngine
from harness.models.family import Family, Language, Projector, newline_of, whole_parts
from harness.models.llava import Llava, LlavaLanguage, LlavaVision, stop_ids
from harness.models.patches import one_of_two
from harness.models.pieces import PieceTokenizer

_auto: Any = AutoModel
RANDOM = "random"
"""The weights of a scenario that is only about latency."""


class LlavaModels:
    """The Models (see :mod:`harness.models.contract`) of a name in a family; each part is loaded on first use.

    ``dtype`` None is float32 on a CPU, bfloat16 elsewhere. ``weights`` is a folder or a hub id to use instead of the
    name's own, or ``"random"``: only the architecture, to study latency, with the checkpoint's config and tokenizer if
    those are on this machine. ``engine`` makes another engine from the language part, whose layers need not be read.

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
        self._smaller_than: LlavaModels | None = None

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
            larger = self._smaller_than
            if larger is not None and key in larger._parts:
                self._parts[key].share(larger._parts[key])
        found: LlavaVision = self._parts[key]
        return found

    def language(
        self,
        adapter: Path | None = None,
        projector: Mapping[str, Tensor] | None = None,
        engine: Callable[["LlavaModels"], Engine] | None = None,
    ) -> LlavaLanguage:
        """The language side, with a projector's own weights where they are given.

        Another ``engine`` than transformers' layers gets the embedding table and the projector read, and no layer. It
        computes without an adapter: raises UnavailableError where one is given too.
        """
        if engine is not None and adapter is not None:
            raise UnavailableError(
                f"{adapter}: an adapter is applied to the layers of transformers, and {shown(engine)} makes another "
                "engine, which computes without it; give one of the two"
            )
        key = ("language", adapter, engine)
        if key not in self._parts:
            lora = None
            # Small files are checked before gigabytes are read.
            stop = stop_ids(self.tokenizer, self.family.template, self.declared_stop)
            if engine is None:
                module, lora = self._adapted("language", adapter)
                embedding = module.model.embed_tokens
                runs: Engine = TransformersEngine(
                    module, stop=stop, max_new_tokens=self._max_new_tokens, masks=self.family.masks
                )
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
        """The fingerprint of a part's weights; reads only that part."""
        if self._random or self.folder is None:
            return RANDOM
        return files.fingerprint(self.folder, part)

    def smaller(self, name: str | None = None, weights: str | None = None) -> "LlavaModels":
        """The smaller model that runs on a device: the catalog's for this one, or another by its name."""
        name = catalog.smaller(self.name, name)
        key = ("smaller", name, weights)
        if key not in self._parts:
            load = catalog.load("backbone", name, catalog.BACKBONES)
            self._parts[key] = load(name, device=self.device, weights=weights, max_pixels=self.max_pixels)
            self._parts[key]._smaller_than = self
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
        """Only the embedding table."""
        text = self.config.text_config

        def build() -> nn.Module:
            part = nn.Module()
            part.model = nn.Module()
            part.model.embed_tokens = self.family.embedding(text)
            return part

        if self._random or self.folder is None:
            module = checkpoint.with_random_weights(build, self._torch_device, self._dtype)
        else:
            with checkpoint.empty():
                module = build()
            module = checkpoint.fill(self.folder, "language", module, self._torch_device, self._dtype, whole=False)
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
        return Projector(family.projector(config), newline_of(width) if family.has_newline else None)
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
    """Refuses what a config.json may declare and this harness does not support."""
    vision, text, path = config.vision_config, config.text_config, folder / "config.json"
    for name in _SIZES:
        part, _, key = name.rpartition(".")
        value = one_of_two(getattr(getattr(config, part), key, None))
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"{path}: {name} is {value!r}; a whole number from 1 on is expected")
    if hasattr(config, "vision_feature_layer"):
        _check_layer(path, config)
    for name, of, heads in (
        ("vision_config.hidden_size", vision.hidden_size, vision.num_attention_heads),
        ("text_config.hidden_size", text.hidden_size, text.num_attention_heads),
        ("text_config.num_attention_heads", text.num_attention_heads, text.num_key_value_heads),
    ):
        if of % heads:
            raise CheckpointError(f"{path}: {name} is {of}; a multiple of the {heads} {_HEADS[name]} is expected")
    image_size, patch_size = one_of_two(vision.image_size), one_of_two(vision.patch_size)
    if image_size < patch_size:
        raise CheckpointError(
            f"{path}: vision_config has image_size {image_size} and patch_size {patch_size}; a patch is no larger than "
            "an image"
        )
    try:
        family.cut(config)
        family.tiling(config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    _check_processor(folder, family)


def _check_layer(path: Path, config: Any) -> None:
    layer, n_layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
    if not isinstance(layer, int) or isinstance(layer, bool):
        raise CheckpointError(f"{path}: vision_feature_layer is {layer!r}; the number of one layer is expected")
    if not -n_layers - 1 <= layer <= n_layers:
        raise CheckpointError(
            f"{path}: vision_feature_layer is {layer}; a tower of {n_layers} layers has {-n_layers - 1} to {n_layers}"
        )
    strategy = config.vision_feature_select_strategy
    if strategy not in ("default", "full"):
        raise CheckpointError(f"{path}: vision_feature_select_strategy is {strategy!r}; it is default or full")


def _check_processor(folder: Path, family: Family) -> None:
    """Refuses a checkpoint whose processor, if it has one, prepares pictures differently from this harness."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if not family.processor or not (path := folder / name).is_file():
            continue
        declared = files.read_json(path)
        inner = declared.get("image_processor", declared)
        for key, wanted in family.processor.items():
            found = inner.get(key, wanted) if isinstance(inner, dict) else wanted
            if found is not None and found != wanted:
                raise CheckpointError(f"{path}: {key} is {shown(found)}; this harness runs the model with {wanted}")


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
