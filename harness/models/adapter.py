"""LoRA on a backbone: put on for training, saved as peft saves it, and taken up again where a trained one is used."""

import contextlib
import copy
import functools
import inspect
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import harness.models.torchvision_ops  # noqa: F401  isort: skip - peft imports transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from harness.errors import CheckpointError
from harness.models.contract import Backbone
from harness.models.llava import Llava

TARGETS = (
    r".*(vision_tower\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
    r"|language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj))"
)
"""The attention's output is ``out_proj`` in SigLIP and CLIP, ``o_proj`` in Qwen2 and Llama."""

PROJECTOR = "multi_modal_projector"
_PREFIX = "base_model.model."

_COPIED_BELOW_BYTES = 1 << 30


def attach(backbone: Llava, rank: int, alpha: int, dropout: float) -> PeftModel:
    """LoRA in vision tower and language model, and a trainable copy of the projector, put into ``backbone.model``.

    What is trainable is float32; all else is frozen. As LoRA begins, the model computes what it did before.
    """
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


def size(backbone: Llava, rank: int) -> int:
    """How many parameters :func:`attach` makes trainable, the projector's among them."""
    total: int = sum(p.numel() for p in backbone.projector.parameters())
    for name, module in backbone.model.named_modules():
        if re.fullmatch(TARGETS, name):
            total += rank * (module.in_features + module.out_features)
    return total


@contextlib.contextmanager
def _peft() -> Iterator[None]:
    """Without the warning that peft's use of an old name of transformers gives."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def part_of(name: str) -> str:
    """Which part a trainable parameter of :func:`attach` belongs to: language, vision or projector."""
    if PROJECTOR in name:
        return "projector"
    return "vision" if "vision_tower" in name else "language"


def halve(model: PeftModel) -> None:
    """Round all that :func:`attach` made trainable to the half precision in which :func:`save` keeps it."""
    for parameter in trainable(model).values():
        parameter.data = parameter.data.half().to(parameter.dtype)


def save(model: PeftModel, folder: Path, backbone: str) -> None:
    """Adapter and projector in peft's own form, its config and its weights, in half precision.

    ``backbone`` is the base's name.
    """
    model.save_pretrained(str(folder), save_embedding_layers=False)
    weights = folder / SAFETENSORS_WEIGHTS_NAME
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    # peft names the folder that the base was loaded from, which another machine does not have.
    path = folder / CONFIG_NAME
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "base_model_name_or_path": backbone}, indent=2) + "\n", encoding="utf-8")
    # peft's generated card is a form with nothing filled in; the codec's folder has its own.
    (folder / "README.md").unlink(missing_ok=True)


def adapted(backbone: Backbone, folder: Path) -> Backbone:
    """The backbone as trained with a codec: with the adapter in ``folder``.

    A miniature is copied and the adapter merged into the copy, so that it costs nothing in use. Of a full-size model
    there is room for one: there the adapter lies beside the shared weights and is on inside the calls of what is
    returned, off for all others. Raises CheckpointError where the adapter is absent, damaged or of another model.
    """
    if not isinstance(backbone, Llava):
        raise CheckpointError(f"{folder}: {backbone.name} is no LLaVA; adapters are LoRA on one")
    _check(backbone, folder)
    size_bytes = sum(p.numel() * p.element_size() for p in backbone.model.parameters())
    try:
        if size_bytes < _COPIED_BELOW_BYTES and backbone.adapters is None:
            with _peft():
                model = PeftModel.from_pretrained(copy.deepcopy(backbone.model), folder)
            merged = model.merge_and_unload().requires_grad_(False).eval()
            other = copy.copy(backbone)
            other.model = merged
            return other
        return _sharing(backbone, folder)
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: is not an adapter of {backbone.name}: {str(error).splitlines()[0]}") from None


def _check(backbone: Llava, folder: Path) -> None:
    """That the files are there, are no pickle, and hold all that an adapter of this model has, in its shapes."""
    try:
        json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: holds no readable adapter: {error}") from None
    weights = {name.replace(".base_layer", ""): p.shape for name, p in backbone.model.named_parameters()}
    adapted_to = [name for name, _ in backbone.model.named_modules() if re.fullmatch(TARGETS, name)]
    wanted = {f"{_PREFIX}{name}.lora_{side}.weight" for name in adapted_to for side in "AB"}
    if missing := wanted - shapes.keys():
        raise CheckpointError(f"{folder}: lacks {len(missing)} tensors, {min(missing)} first")
    for name, shape in sorted(shapes.items()):
        base, axis = _base_of(name)
        fits = weights.get(base) or weights.get(base.replace(PROJECTOR, f"{PROJECTOR}.original_module"))
        if fits is None or (shape != tuple(fits) if axis is None else shape[axis] != fits[axis]):
            raise CheckpointError(
                f"{folder}: {base} has shape {shape} in the adapter and {fits and tuple(fits)} in {backbone.name}; "
                "it was trained with another model"
            )


def _base_of(name: str) -> tuple[str, int | None]:
    """The weight that a tensor of an adapter is for, and which of its axes the two share (None: all)."""
    name = name.removeprefix(_PREFIX)
    for side, factor in ((1, ".lora_A.weight"), (0, ".lora_B.weight")):
        if name.endswith(factor):
            return name.removesuffix(factor) + ".weight", side
    return name, None


class _Sharing:
    """A backbone whose adapter is on inside its calls alone; the weights under it are shared with whoever has them."""

    def __init__(self, backbone: Llava, adapters: Any, adapter: str) -> None:
        self._backbone, self._adapters, self._adapter = backbone, adapters, adapter

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backbone, name)
        if not inspect.ismethod(found):
            return found

        @functools.wraps(found)
        def called(*arguments: Any, **named: Any) -> Any:
            self._adapters.set_adapter(self._adapter, inference_mode=True)
            self._adapters.base_model.enable_adapter_layers()
            try:
                answer = found(*arguments, **named)
            finally:
                self._adapters.base_model.disable_adapter_layers()
            return _Sharing(answer, self._adapters, self._adapter) if isinstance(answer, Llava) else answer

        return called


def _sharing(backbone: Llava, folder: Path) -> Backbone:
    """The backbone with an adapter beside its weights, read once however often it is asked for."""
    name = str(folder.resolve()).replace(".", "_")
    if backbone.adapters is None:
        with _peft():
            backbone.adapters = PeftModel.from_pretrained(
                backbone.model, folder, adapter_name=name, autocast_adapter_dtype=False
            )
    elif name not in backbone.adapters.peft_config:
        backbone.adapters.load_adapter(str(folder), adapter_name=name, autocast_adapter_dtype=False)
    backbone.adapters.requires_grad_(False).eval()
    backbone.adapters.base_model.disable_adapter_layers()
    return cast("Backbone", _Sharing(backbone, backbone.adapters, name))


def trainable(model: Any) -> dict[str, Any]:
    """The trainable parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
