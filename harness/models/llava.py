"""What the LLaVA models have in common: a vision tower, a projector, a language model that reads visual tokens.

    P patches   V features a patch   C merged features a patch   D feature dimension
    T visual tokens   H width of the language model

The models are transformers' own. Their parts are called one by one, because a scheme cuts between them, and because
transformers' way around them cannot take merged features.
"""

import copy
import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import torch
from PIL import Image
from transformers import DynamicCache

from harness.data.sample import Question
from harness.errors import CheckpointError, UnavailableError, unknown_name
from harness.models import decoding, tower
from harness.models.checkpoint import dtype_of, locate, random_model, read_config, read_model, read_tokenizer
from harness.models.contract import Attention, Prefilled, Tiles
from harness.models.pieces import PieceTokenizer
from harness.models.prompts import Template


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models of one class in transformers; ``sources`` says where each name's weights are, a hub id or a folder.

    ``full_size`` gives the architecture of a published name without the hub; it raises CheckpointError for others.
    """

    config_class: Any
    model_class: Any
    template: Template
    sources: Mapping[str, str | os.PathLike[str]]
    full_size: Callable[[str], Any]


def load_parts(
    family: Family,
    name: str,
    device: str | torch.device,
    dtype: str | torch.dtype | None,
    weights: str | os.PathLike[str] | None,
) -> tuple[Any, Any]:
    """Model and tokenizer of a name, on ``device``; ``dtype`` None is float32 on a CPU, bfloat16 elsewhere.

    ``weights`` is a folder or a hub id to use instead of the name's own, or ``"random"``: the architecture alone, for
    latency work, with the checkpoint's config and tokenizer where those are on this machine.

    Raises UnavailableError where the weights are not on this machine, CheckpointError where they are damaged or of
    another model.
    """
    if name not in family.sources:
        raise CheckpointError(unknown_name(f"{family.config_class.model_type} model", name, family.sources))
    device = torch.device(device)
    dtype = dtype_of(dtype, device)
    random = weights == "random"
    try:
        folder = locate(name, family.sources[name] if random or weights is None else weights)
    except UnavailableError:
        if not random:
            raise
        config = family.full_size(name)
        return random_model(family.model_class, config, device, dtype), PieceTokenizer(config.text_config.vocab_size)
    config = read_config(folder, family.config_class)
    tokenizer = read_tokenizer(folder, family.template.special, config.text_config.vocab_size)
    if random:
        return random_model(family.model_class, config, device, dtype), tokenizer
    return read_model(folder, family.model_class, config, device, dtype), tokenizer


class Llava(ABC):
    """A Backbone (see :mod:`harness.models.contract`) around a loaded model and its tokenizer.

    A subclass is of a ``family``. ``max_new_tokens`` bounds an answer; multiple choice and yes/no need a few.
    """

    family: ClassVar[Family]

    def __init__(self, name: str, model: Any, tokenizer: Any, *, max_new_tokens: int = 16) -> None:
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.template = self.family.template
        self.max_new_tokens = max_new_tokens
        self.device: torch.device = model.device
        self._own_projector: Any = None
        self.adapters: Any = None
        """The PeftModel around ``model``, once adapters share its weights; see :mod:`harness.models.adapter`."""
        vision = model.config.vision_config
        self.n_features: int = (vision.image_size // vision.patch_size) ** 2
        self.feature_dim: int = vision.hidden_size
        self._stop_ids = stop_ids(model, tokenizer, self.template)

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        weights: str | os.PathLike[str] | None = None,
    ) -> Self:
        """A model of the family by its name; see :func:`load_parts`."""
        return cls(name, *load_parts(cls.family, name, device, dtype, weights))

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Tiles:
        """The patches of an RGB image, on the CPU."""

    @abstractmethod
    def project_all(self, x_PVD: torch.Tensor, tiles: Tiles) -> torch.Tensor:
        """All features, (T, H), in the model's own arrangement.

        Raises BitstreamError for features that are not those of an image of ``tiles.image_size``.
        """

    @abstractmethod
    def arranged(self, tokens_PVH: torch.Tensor, tiles: Tiles) -> torch.Tensor:
        """All of an image's projected tokens as the model reads them, (T, H); differentiable."""

    @torch.inference_mode()
    def encode_image(self, tiles: Tiles) -> torch.Tensor:
        """The visual features x (P, V, D), at the model's dtype."""
        return self.features(tiles.pixels_PCHW.to(self.device, non_blocking=True))

    def features(self, pixels_PCHW: torch.Tensor) -> torch.Tensor:
        """Visual features (P, V, D) of normalised pixels on the model's device; differentiable."""
        config = self.model.config
        drop_cls = config.vision_feature_select_strategy == "default"
        return tower.features(
            self.model.model.vision_tower, pixels_PCHW, config.vision_feature_layer, drop_cls=drop_cls
        )

    @torch.inference_mode()
    def encode_attended(self, tiles: Tiles) -> tuple[torch.Tensor, Attention]:
        """The visual features x (P, V, D), and how the layer that gave them attended to each, from one pass."""
        config = self.model.config
        drop_cls = config.vision_feature_select_strategy == "default"
        pixels_PCHW = tiles.pixels_PCHW.to(self.device, non_blocking=True)
        return tower.attended_features(
            self.model.model.vision_tower, pixels_PCHW, config.vision_feature_layer, drop_cls=drop_cls
        )

    def with_projector(self, weights: Mapping[str, torch.Tensor]) -> Self:
        """The same backbone with another projector; all else is shared.

        Raises CheckpointError for weights of another projector.
        """
        other, projector = copy.copy(self), copy.deepcopy(self.projector)
        try:
            projector.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise CheckpointError(f"not the projector of {self.name}: {str(error).splitlines()[-1].strip()}") from None
        other._own_projector = projector.requires_grad_(False)
        return other

    @property
    def projector(self) -> Any:
        """What takes visual features to tokens."""
        return self.model.model.multi_modal_projector if self._own_projector is None else self._own_projector

    @torch.inference_mode()
    def project(self, y_PCD: torch.Tensor) -> torch.Tensor:
        """Merged features through the projector, (P * C, H); of any float dtype, on any device."""
        return self._projected(y_PCD).flatten(0, 1)

    @torch.inference_mode()
    def prefill(self, tokens: torch.Tensor | Sequence[torch.Tensor], question: Question) -> Prefilled:
        """Reads template, visual tokens and question."""
        return decoding.prefill(self.model, self.prompt(tokens, question), DynamicCache(config=self.model.config))

    @torch.inference_mode()
    def generate(self, prefilled: Prefilled) -> str:
        """The greedy answer, at most ``max_new_tokens`` tokens of it."""
        tokens = decoding.continued(self.model, prefilled, self._stop_ids, self.max_new_tokens)
        answer: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return answer

    def prompt(self, tokens: torch.Tensor | Sequence[torch.Tensor], question: Question) -> torch.Tensor:
        """The prompt's embeddings, up to where the answer begins: (text and visual tokens, H); differentiable.

        ``tokens`` are (T, H) of the only picture, or a sequence of such, one a picture. Raises ValueError for a
        question that shows more pictures.
        """
        pictures = [tokens] if isinstance(tokens, torch.Tensor) else tokens
        parts = self.template.parts(question, len(pictures))
        ids = [self.tokenizer.encode(part, add_special_tokens=False).ids for part in parts if isinstance(part, str)]
        text = torch.tensor([token for of_part in ids for token in of_part], device=self.device)
        text_TH = self.model.get_input_embeddings()(text)
        texts = iter(text_TH.split([len(of_part) for of_part in ids]))
        return torch.cat([next(texts) if isinstance(part, str) else pictures[part].to(text_TH) for part in parts])

    def _projected(self, x_PVD: torch.Tensor) -> torch.Tensor:
        tokens_PVH: torch.Tensor = self.projector(x_PVD.to(self.device, self.projector.linear_1.weight.dtype))
        return tokens_PVH


def stop_ids(model: Any, tokenizer: Any, template: Template) -> frozenset[int]:
    """The tokens that end an answer: the template's, and those that the checkpoint declares."""
    declared = model.generation_config.eos_token_id
    declared = [declared] if isinstance(declared, int) else (declared or [])
    return frozenset([tokenizer.token_to_id(template.stop), *declared])
