"""Finding, reading and checking a checkpoint; or building its architecture with random weights.

A checkpoint is a folder as transformers saves it: config.json, model*.safetensors, tokenizer.json. Nothing is fetched
from a network, and no pickle is read.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import safetensors
import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from tokenizers import Tokenizer

from harness.errors import CheckpointError, UnavailableError

ZOO = Path(__file__).parents[1] / "zoo"
"""The project's own trained weights."""

_PATTERNS = ["*.json", "*.safetensors"]


def locate(name: str, source: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint: ``source`` itself, or a hub id's snapshot in the local cache (``HF_HOME``).

    Raises UnavailableError, saying how to get it, where it is neither.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.is_relative_to(ZOO):
        raise UnavailableError(f"{name}: its weights are not in {folder}; 'make weights' trains them")
    try:
        return Path(snapshot_download(str(source), local_files_only=True, allow_patterns=_PATTERNS))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        raise UnavailableError(
            f"{name}: {source} is neither a folder nor in the local cache of the Hugging Face hub; run "
            f"'hf download {source}' on a machine with a network (HF_HOME says where the cache is), or give the path "
            "of a folder with its config.json, tokenizer.json and safetensors as weights"
        ) from None


def read_config(folder: Path, config_class: type[transformers.PretrainedConfig]) -> Any:
    """The architecture in a config.json; raises CheckpointError where it is absent, damaged or of another model."""
    path = folder / "config.json"
    try:
        declared = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON: {error}") from None
    found = declared.get("model_type") if isinstance(declared, dict) else None
    if found != config_class.model_type:
        raise CheckpointError(f"{path}: model_type is {found!r}; {config_class.model_type!r} is wanted")
    try:
        return config_class.from_dict(declared)
    except Exception as error:  # its strict dataclasses raise many kinds, all of them about this file
        raise CheckpointError(f"{path}: does not describe a {found} model: {_first_line(error)}") from None


def read_tokenizer(folder: Path, special: Sequence[str], vocabulary: int) -> Tokenizer:
    """The tokenizer of a checkpoint; raises CheckpointError where it is absent, damaged or of another model.

    One of this model has the ``special`` tokens and no id past ``vocabulary``.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: is absent; a checkpoint has its tokenizer beside its weights")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{path}: is not a tokenizer: {_first_line(error)}") from None
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


def read_model(folder: Path, model_class: Any, config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A model with a checkpoint's weights, at ``dtype`` on ``device`` whatever they are stored as, ready for inference.

    Raises CheckpointError where the weights are absent, damaged, or not those of ``config``.
    """
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder}: there are no weights (*.safetensors); pickled ones are not read")
    try:
        with _quiet():
            model, report = model_class.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation="sdpa",
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (OSError, RuntimeError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{folder}: its weights cannot be read: {_first_line(error)}") from None
    if mismatched := report["mismatched_keys"]:
        key, found, wanted = sorted(mismatched)[0]
        raise CheckpointError(
            f"{folder}: {key} has shape {tuple(found)} and the config wants {tuple(wanted)}; "
            "the weights belong to another model"
        )
    if missing := report["missing_keys"]:
        raise CheckpointError(
            f"{folder}: {len(missing)} weights are missing, {min(missing)} first; they belong to another model"
        )
    return model.to(device).eval()


def random_model(model_class: Any, config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A model of ``config`` with random weights, built in place on ``device`` at ``dtype``: never a second copy."""
    with device:
        return model_class._from_config(config, dtype=dtype, attn_implementation="sdpa").eval()


def default_dtype(device: torch.device) -> torch.dtype:
    """float32 on a CPU, bfloat16 on an accelerator."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def dtype_of(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """A dtype from its name (``bfloat16``) or itself, None for the device's own; raises CheckpointError for another."""
    if name is None:
        return default_dtype(device)
    found = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise CheckpointError(f"unknown dtype {name!r}; float32, bfloat16 and float16 are those that models run in")
    return found


def fingerprint(model: Any) -> str:
    """What tells a model's weights from others, in 16 hexadecimal digits, at whatever dtype they were loaded.

    It is a digest of every tensor's name, shape and first values, so that eight billion weights take no time.
    """
    total = hashlib.sha256()
    for name, tensor in sorted(model.named_parameters()):
        total.update(f"{name} {tuple(tensor.shape)}".encode())
        # Weights are stored in 16 bits: rounded to bfloat16 they are the same however they were read.
        few = tensor.detach().flatten()[:256].to("cpu", torch.bfloat16)
        total.update(few.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar and load report: what they would say is raised as an error."""
    logging = transformers.utils.logging
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__
