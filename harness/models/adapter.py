"""LoRA: added to a whole model for training, saved in peft's format, and applied part by part at inference."""

import contextlib
import copy
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import harness.models.torchvision_ops  # noqa: F401  isort: skip - peft imports transformers
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.errors import CheckpointError, UnavailableError
from harness.models import files
from harness.models.contract import Part

if TYPE_CHECKING:
    from peft import PeftModel

    from harness.models.family import Family
    from harness.models.llava import Llava

CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME = files.ADAPTER_CONFIG, files.ADAPTER_WEIGHTS

TARGETS = (
    r".*(vision_tower\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
    r"|language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj))"
)
"""The attention's output is ``out_proj`` in SigLIP and CLIP, ``o_proj`` in Qwen2 and Llama."""

PROJECTOR = "multi_modal_projector"
_PREFIX = "base_model.model."

_COPIED_BELOW_BYTES = 1 << 30


def attach(backbone: "Llava", rank: int, alpha: int, dropout: float) -> "PeftModel":
    """LoRA in vision tower and language model, and a trainable copy of the projector, put into ``backbone.model``.

    Trainable tensors are float32; everything else is frozen. LoRA starts as the identity: the model computes what it
    did before. Raises UnavailableError for a family whose prompts training cannot pack.
    """
    refuse_untrainable(backbone.name, backbone.family)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=TARGETS,
        modules_to_save=[PROJECTOR],
        bias="none",
    )
    with _peft():
        model = get_peft_model(backbone.model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def refuse_untrainable(name: str, family: "Family") -> None:
    """Raises UnavailableError for a family with tokens around a picture, or with attention that is not causal.

    Dialogues are packed (:mod:`harness.training.packing`) for LLaVA's prompts.
    """
    if family.template.opens or family.masks is not None:
        raise UnavailableError(
            f"{name}: training packs questions for LLaVA-OneVision and LLaVA-1.5, and would not give this model "
            "its own prompt; train only a codec, on pictures without questions (data: kind: pictures)"
        )


def size(backbone: "Llava", rank: int) -> int:
    """How many parameters :func:`attach` makes trainable, the projector's among them."""
    total: int = sum(p.numel() for p in backbone.projector.parameters())
    for name, module in backbone.model.named_modules():
        if re.fullmatch(TARGETS, name):
            total += rank * (module.in_features + module.out_features)
    return total


@contextlib.contextmanager
def _peft() -> Iterator[None]:
    """Suppresses the warning about a name of transformers that peft still uses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def part_of(name: str) -> str:
    """Which part a trainable parameter of :func:`attach` belongs to: language, vision or projector."""
    if PROJECTOR in name:
        return "projector"
    return "vision" if "vision_tower" in name else "language"


def halve(model: "PeftModel") -> None:
    """Round all that :func:`attach` made trainable to the half precision in which :func:`save` stores it."""
    for parameter in trainable(model).values():
        parameter.data = parameter.data.half().to(parameter.dtype)


def save(model: "PeftModel", folder: Path, backbone: str) -> None:
    """Saves adapter and projector in peft's format, config and weights, in half precision; replaces the folder.

    ``backbone`` is the base's name. Raises OSError where the folder cannot be written.
    """
    with files.written(folder) as unfinished:
        model.save_pretrained(str(unfinished), save_embedding_layers=False)
        weights = unfinished / SAFETENSORS_WEIGHTS_NAME
        save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
        # peft names the folder that the base was loaded from, which another machine does not have.
        path = unfinished / CONFIG_NAME
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**config, "base_model_name_or_path": backbone}, indent=2) + "\n", encoding="utf-8")
        # peft's generated card is a form with nothing filled in; the codec's folder has its own.
        (unfinished / "README.md").unlink(missing_ok=True)


class Lora:
    """The adapter of one part, as a training left it: the factors of W + scale * B A for each of its linear layers."""

    def __init__(self, name: str, factors: Mapping[str, tuple[Tensor, Tensor]], scale: float) -> None:
        self.name = name
        self._factors = factors
        self._scale = scale
        self._is_on = False

    @classmethod
    def read(cls, folder: Path, part: Part, module: nn.Module, model: str) -> Self:
        """The adapter in ``folder`` of a part of the ``model`` of that name.

        Raises CheckpointError where it is absent, damaged or of another model, or more than a plain LoRA.
        """
        config = files.adapter_config(folder)
        found = {name: tensor.float() for name, tensor in _tensors(folder, part).items()}
        linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
        layers = [name for name in linear if _targeted(part, name)]
        wanted = {f"{_plain(name)}.lora_{side}.weight": name for name in layers for side in "AB"}
        if missing := sorted(wanted.keys() - found.keys()):
            raise CheckpointError(f"{folder}: lacks {len(missing)} tensors of the {part}, {missing[0]} first")
        if foreign := sorted(found.keys() - wanted.keys()):
            raise CheckpointError(
                f"{folder}: has {len(foreign)} tensors that the {part} of {model} has no place for, {foreign[0]} "
                "first; it was trained with another model, or is more than a plain LoRA"
            )
        factors = {}
        for name in layers:
            a, b = (found[f"{_plain(name)}.lora_{side}.weight"] for side in "AB")
            shape = tuple(module.get_submodule(name).weight.shape)  # type: ignore[arg-type]
            if a.ndim != 2 or b.ndim != 2 or (b.shape[0], a.shape[1]) != shape or b.shape[1] != a.shape[0]:
                raise CheckpointError(
                    f"{folder}: {name} has factors of {tuple(b.shape)} and {tuple(a.shape)} in the adapter, and its "
                    f"weight {shape} in {model}; it was trained with another model"
                )
            if a.shape[0] != config["r"]:
                raise CheckpointError(
                    f"{folder}: {name} has factors of rank {a.shape[0]}, and {CONFIG_NAME} says r = {config['r']}"
                )
            factors[name] = a, b
        return cls(str(folder), factors, config["lora_alpha"] / config["r"])

    @staticmethod
    def read_projector(folder: Path, projector: nn.Module, model: str) -> dict[str, Tensor]:
        """The projector that was trained with the adapter in ``folder``; raises as :meth:`read`."""
        found = {name.removeprefix(f"{PROJECTOR}."): t for name, t in _tensors(folder, "projector").items()}
        weights = projector.state_dict()
        for name in weights:
            if name not in found or found[name].shape != weights[name].shape:
                shape = tuple(found[name].shape) if name in found else None
                raise CheckpointError(
                    f"{folder}: {PROJECTOR}.{name} has shape {shape} in the adapter and {tuple(weights[name].shape)} "
                    f"in {model}; it was trained with another model"
                )
        return {name: found[name].to(weights[name]) for name in weights}

    def is_worth_a_copy(self, module: nn.Module) -> bool:
        """Whether a part is so small that a copy with the adapter merged into it is better than both side by side."""
        return sum(p.numel() * p.element_size() for p in module.parameters()) < _COPIED_BELOW_BYTES

    @torch.no_grad()
    def merged(self, module: nn.Module) -> nn.Module:
        """A copy of the part with the adapter merged into its weights: it costs nothing at inference."""
        module = copy.deepcopy(module)
        for name, (a, b) in self._factors.items():
            weight = module.get_submodule(name).weight
            weight += ((b @ a) * self._scale).to(weight)  # type: ignore[operator,arg-type]
        return module

    def beside(self, module: nn.Module) -> Self:
        """The adapter beside the weights of a part, which are shared with other users of the part; see :meth:`on`.

        Its factors are from now on where the part is, at the part's dtype.
        """
        layers = {name: module.get_submodule(name) for name in self._factors}
        # Only these are held: as they were read, in single precision, they would take twice the memory.
        self._factors = {
            name: (a.to(layers[name].weight), b.to(layers[name].weight))  # type: ignore[arg-type]
            for name, (a, b) in self._factors.items()
        }
        for name, (a, b) in self._factors.items():
            layer = layers[name]

            def changed(_: nn.Module, inputs: Any, output: Tensor, a: Tensor = a, b: Tensor = b) -> Tensor | None:
                return output + (inputs[0] @ a.mT @ b.mT) * self._scale if self._is_on else None

            layer.register_forward_hook(changed)
        return self

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """While the body runs, the part computes with the adapter."""
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False


def _tensors(folder: Path, part: Part) -> dict[str, Tensor]:
    """The adapter's tensors of a part, by their names in it."""
    path = folder / SAFETENSORS_WEIGHTS_NAME
    found: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                place = files.place_of(key.removeprefix(_PREFIX))
                if place is not None and place[0] == part:
                    found[place[1]] = file.get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: holds no readable adapter: {error}") from None
    return found


def _targeted(part: Part, name: str) -> bool:
    above = {"tower": "vision_tower.", "language": "language_model."}[part]
    return re.fullmatch(TARGETS, above + name) is not None


def _plain(name: str) -> str:
    return name.removeprefix("vision_model.")


def trainable(model: Any) -> dict[str, Any]:
    """The trainable parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
