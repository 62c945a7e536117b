"""Reads the parts of a checkpoint into transformers' modules, or builds these with random weights.

Each part is read separately: a device that runs the vision tower of an 8-billion-parameter model reads only the tower's
tensors, one after the other, each at the precision it is computed in.
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import torch
import transformers
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn

from harness.errors import CheckpointError
from harness.models import files
from harness.models.contract import Part

_STORED = (torch.float32, torch.float16, torch.bfloat16)
_REOPENED_AFTER_BYTES = 256 << 20
"""Tensors are mapped from a file that stays in memory while it is open."""
_UNUSED = "head."
"""The weights with which SigLIP pools all features into one; no model here reads that."""


def read_config(folder: Path, config_class: type[transformers.PretrainedConfig]) -> Any:
    """The architecture in a config.json; raises CheckpointError where it is absent, damaged or of another model."""
    path = folder / "config.json"
    declared = files.read_json(path)
    found = declared.get("model_type")
    if found != config_class.model_type:
        raise CheckpointError(f"{path}: model_type is {found!r}; {config_class.model_type!r} is expected")
    if "quantization_config" in declared:
        quantised = declared["quantization_config"]
        kind = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise CheckpointError(
            f"{path}: its weights are quantised ({kind or 'an unnamed method'}); weights in 16 or 32 bits are expected"
        )
    try:
        config = config_class.from_dict(declared)
        config.tie_word_embeddings = config.tie_word_embeddings or files.is_tied(declared)
        return config
    except Exception as error:  # its strict dataclasses raise many kinds, all of them about this file
        raise CheckpointError(f"{path}: does not describe a {found} model: {_first_line(error)}") from None


def read_tokenizer(folder: Path, special: Sequence[str], vocabulary: int) -> Tokenizer:
    """The tokenizer of a checkpoint; raises CheckpointError where it is absent, damaged or of another model.

    A tokenizer of this model has the ``special`` tokens. Of its ids past ``vocabulary`` all are of added tokens, as
    InternVL3's for videos, for which the model has no embedding: these are left out, plain text in a question.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: is absent; a checkpoint has its tokenizer beside its weights")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{path}: is not a tokenizer: {_first_line(error)}") from None
    added = tokenizer.get_added_tokens_decoder()
    if beyond := {token.content for number, token in added.items() if number >= vocabulary} - set(special):
        declared = files.read_json(path)
        declared["added_tokens"] = [token for token in declared["added_tokens"] if token["content"] not in beyond]
        tokenizer = Tokenizer.from_str(json.dumps(declared))
    if missing := [token for token in special if tokenizer.token_to_id(token) is None]:
        raise CheckpointError(
            f"{path}: has no token {missing[0]!r}, which the prompt needs; it belongs to another model"
        )
    if (largest := max(tokenizer.get_vocab().values())) >= vocabulary:
        raise CheckpointError(
            f"{path}: has a token {largest}, but the model's vocabulary ends at {vocabulary - 1}; "
            "it belongs to another model"
        )
    return tokenizer


def stop_tokens(folder: Path, config: Any) -> list[int]:
    """The tokens that a checkpoint declares to end an answer; raises CheckpointError for a damaged declaration."""
    path = folder / "generation_config.json"
    declared = files.read_json(path).get("eos_token_id") if path.is_file() else config.text_config.eos_token_id
    found = [] if declared is None else [declared] if isinstance(declared, int) else declared
    if not isinstance(found, list) or not all(isinstance(token, int) for token in found):
        raise CheckpointError(f"{path}: eos_token_id is {declared!r}; a token's number or a list of such is expected")
    return found


def empty() -> Any:
    """A context in which modules are built without weights, for :func:`fill`; their buffers are real."""
    return init_empty_weights(include_buffers=False)


def fill(
    folder: Path, part: Part, module: nn.Module, device: torch.device, dtype: torch.dtype, *, whole: bool = True
) -> nn.Module:
    """A module that was built :func:`empty`, with the weights of a part of a checkpoint, ready for inference.

    Weights are converted to ``dtype`` on ``device``. Raises CheckpointError where they are absent, damaged, or not
    those of the module; where the module is the ``whole`` part, also for weights that it has no place for.
    """
    known = files.tensors(folder, part)
    places = _places_of(module, known, part, folder)
    if whole and (rest := sorted(known.keys() - {_plain(name) for name in places})):
        _refuse_rest([name for name in rest if not name.startswith(_UNUSED)], part, folder)
    state: dict[str, Tensor] = {}
    for names in _batches(places, module):
        with _opened(places[names[0]].file) as opened:
            for name in names:
                state[name] = _read(opened, places[name], tuple(module.get_parameter(name).shape), device, dtype)
    module.load_state_dict(state, strict=False, assign=True)
    _untie(module, state)
    tie(module)
    return module.to(device).eval()


def with_random_weights(build: Callable[[], nn.Module], device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module that ``build`` makes, built in place with random weights: never a second copy."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            module = build()
    finally:
        torch.set_default_dtype(before)
    tie(module)
    return module.eval()


def tie(module: nn.Module) -> None:
    """Lets the head of a ``tied`` language part share the embedding's weights."""
    if getattr(module, "tied", False):
        module.lm_head.weight = module.model.embed_tokens.weight  # type: ignore[union-attr]


def _untie(module: Any, state: Mapping[str, Tensor]) -> None:
    """Uses a head that was read and differs from the embedding, even if the config says that the two are tied.

    A config that does not say so is read as one that ties; transformers decides by the weights too.
    """
    head = state.get("lm_head.weight")
    if getattr(module, "tied", False) and head is not None:
        module.tied = torch.equal(head, state["model.embed_tokens.weight"])


def fingerprint(module: nn.Module) -> str:
    """:func:`harness.models.files.fingerprint` of a part that is loaded, at whatever precision."""
    few = {}
    for name, tensor in module.named_parameters():
        values = tensor.detach().flatten()[:256].to("cpu", torch.bfloat16)
        few[_plain(name)] = tuple(tensor.shape), values.view(torch.int16).numpy().view("<u2")
    return files.of_tensors(few)


def default_dtype(device: torch.device) -> torch.dtype:
    """float32 on a CPU, bfloat16 on an accelerator."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def dtype_of(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """A dtype, or the one of a name (``bfloat16``), or the device's default; raises CheckpointError for another."""
    if name is None:
        return default_dtype(device)
    found = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise CheckpointError(f"unknown dtype {name!r}; models run in float32, bfloat16 or float16")
    return found


def _plain(name: str) -> str:
    """A parameter's name as in :func:`harness.models.files.tensors`, whatever the version of transformers."""
    return name.removeprefix("vision_model.")


def _places_of(module: nn.Module, known: Mapping[str, files.Place], part: Part, folder: Path) -> dict[str, files.Place]:
    """Where each parameter of a module is stored."""
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    places = {name: known[_plain(name)] for name in names if _plain(name) in known}
    tied = {name for name in names if name.endswith("lm_head.weight")} if getattr(module, "tied", False) else set()
    if missing := sorted(set(names) - places.keys() - tied):
        raise CheckpointError(
            f"{folder}: {len(missing)} weights of the {part} are missing, {missing[0]} first; they belong to another "
            "model"
        )
    return places


def _refuse_rest(rest: Sequence[str], part: Part, folder: Path) -> None:
    """Raises CheckpointError for weights that a module has no place for: without them it computes something else."""
    if rest:
        raise CheckpointError(
            f"{folder}: {len(rest)} weights of the {part} have no place in the model that its config.json describes, "
            f"{rest[0]} first; a config.json with the layers and biases of these weights is expected"
        )


def _batches(places: Mapping[str, files.Place], module: nn.Module) -> list[list[str]]:
    """Names that are read while a file is open: of one file, and not too many."""
    batches: list[list[str]] = []
    for _, group in itertools.groupby(sorted(places, key=lambda n: (places[n].file, n)), lambda n: places[n].file):
        n_bytes = 0
        for name in group:
            if not n_bytes or n_bytes > _REOPENED_AFTER_BYTES:
                batches.append([])
                n_bytes = 0
            batches[-1].append(name)
            n_bytes += 1 + 4 * module.get_parameter(name).numel()
    return batches


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: its weights cannot be read: {error}") from None


def _read(opened: Any, place: files.Place, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    try:
        tensor: Tensor = opened.get_tensor(place.key)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{place.file}: its weights cannot be read: {error}") from None
    if tensor.dtype not in _STORED:
        raise CheckpointError(
            f"{place.file}: {place.key} is stored as {tensor.dtype}; float32, float16 and bfloat16 are read, quantised "
            "weights are not"
        )
    if tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"{place.file}: {place.key} has shape {tuple(tensor.shape)} and the config wants {shape}; the weights "
            "belong to another model"
        )
    found = tensor.to(device, dtype)
    # What needs no conversion is a view of the mapped file, which would keep all of it in memory.
    return found.clone() if found.data_ptr() == tensor.data_ptr() else found


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__
