"""Finding, reading and checking a neural codec's weights: a compressai state dict as safetensors, never a pickle."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - compressai imports torchvision
import safetensors
import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from compressai.layers import MaskedConv2d
from compressai.models.base import SCALES_MIN, get_scale_table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.errors import CheckpointError

BUNDLED = Path(__file__).with_name("weights")
"""The project's own small models, ``<codec>-<lambda>.safetensors``; card.md beside them says how they were made."""

_TABLES = ("_quantized_cdf", "_offset", "_cdf_length")
_SHARED = "gaussian_conditional._quantized_cdf"
_TOTAL = 1 << 16
_SCALES_MAX, _SCALES_LEVELS = 48, 30
"""The mean brightness of a block needs the widest; every call of the coder converts the whole table."""
_CONVERT = (
    "pickles are not read; convert it once where you trust it: safetensors.torch.save_file({k: v.contiguous() "
    "for k, v in torch.load(PATH, weights_only=True).items()}, 'model.safetensors')"
)


def bundled(codec: str) -> dict[float, Path]:
    """The project's own models of a codec by their lambda, from the lowest rate to the highest."""
    found = {float(path.stem.removeprefix(f"{codec}-")): path for path in BUNDLED.glob(f"{codec}-*.safetensors")}
    return dict(sorted(found.items()))


def locate(codec: str, weights: float | str) -> Path:
    """The file that a point names, by path or by a bundled model's lambda; raises CheckpointError for other lambdas."""
    if isinstance(weights, str):
        return Path(weights)
    models = bundled(codec)
    if weights not in models:
        known = ", ".join(map(str, models)) or "none; 'make weights' trains them"
        raise CheckpointError(f"{codec}: no model was trained at lambda {weights}; known: {known}")
    return models[weights]


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, floating ones as float32; raises CheckpointError where there is no safetensors file."""
    if path.suffix in {".pth", ".pt", ".tar", ".bin", ".ckpt", ".pkl"}:
        raise CheckpointError(f"{path}: {_CONVERT}")
    try:
        state = load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: is not a safetensors file: {error}") from None
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{path}: {name} is not finite throughout")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def size(path: Path, state: Mapping[str, Tensor], name: str, dimension: int) -> int:
    """One dimension of a convolution's weight, which tells the channels; raises CheckpointError where it is absent."""
    if name not in state or state[name].ndim != 4:
        raise CheckpointError(f"{path}: has no convolution {name}; it belongs to another model")
    return state[name].shape[dimension]


def load(path: Path, net: Any, state: Mapping[str, Tensor]) -> None:
    """Put a state dict into the network of its sizes, ready for coding.

    A Gaussian without tables has those of the first one that has some; where there are none at all, they are computed.

    Raises CheckpointError where anything is missing, unknown, of another shape, or not a table of frequencies.
    """
    state = dict(state)
    shared = next((name.rsplit(".", 1)[0] for name in state if name.endswith(_SHARED)), "")
    for name, module in net.named_modules():
        if isinstance(module, EntropyModel):
            gaussian = isinstance(module, GaussianConditional)
            for table in (*_TABLES, "scale_table") if gaussian else _TABLES:
                default = state.get(f"{shared}.{table}") if gaussian else None
                state.setdefault(f"{name}.{table}", torch.IntTensor() if default is None else default)
        if isinstance(module, MaskedConv2d):
            state.setdefault(f"{name}.mask", module.mask)
    try:
        net.load_state_dict(state)
    except (RuntimeError, IndexError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CheckpointError(f"{path}: is not a {type(net).__name__}: {' '.join(lines[1:3])[:300]}") from None
    net.requires_grad_(False).eval().update()
    for name, module in net.named_modules():
        if isinstance(module, EntropyModel):
            _check_tables(f"{path}: {name}", module)


def _check_tables(place: str, model: EntropyModel) -> None:
    """The coder, which trusts its tables, corrupts memory with wrong ones: raise CheckpointError before that."""
    cdf, lengths, offsets = model._quantized_cdf, model._cdf_length, model._offset
    rows = len(model.scale_table) if isinstance(model, GaussianConditional) else model.channels
    if cdf.ndim != 2 or len(cdf) != rows or lengths.shape != (rows,) or offsets.shape != (rows,):
        raise CheckpointError(f"{place}: its tables are not of {rows} rows each")
    if any(table.dtype != torch.int32 for table in (cdf, lengths, offsets)):
        raise CheckpointError(f"{place}: its tables are not int32")
    if int(lengths.min()) < 3 or int(lengths.max()) > cdf.shape[1]:
        raise CheckpointError(f"{place}: a table has fewer than three entries, or more than there are")
    for row, length in zip(cdf, lengths.tolist(), strict=True):
        entries = row[:length]
        if int(entries[0]) != 0 or int(entries[-1]) != _TOTAL or int(entries.diff().min()) < 1:
            raise CheckpointError(f"{place}: a table does not rise from 0 to {_TOTAL}")


def fingerprint(net: nn.Module, n_bytes: int) -> bytes:
    """The first bytes of the SHA-256 of every weight and table: both halves must hold the same ones."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode() + tensor.contiguous().numpy().tobytes())
    return digest.digest()[:n_bytes]


def save(path: Path, net: Any) -> None:
    """Write a trained network as float16, with the integer tables that belong to the rounded weights.

    Buffers stay as they are: bounds such as 1e-9 are zero in float16. The Gaussians' tables, all alike, are kept once.
    """
    for module in net.modules():
        if isinstance(module, EntropyBottleneck):
            module._update_quantiles()
    for parameter in net.parameters():
        parameter.data = parameter.data.half().float()
    net.update(get_scale_table(SCALES_MIN, _SCALES_MAX, _SCALES_LEVELS), force=True)
    parameters = {name for name, _ in net.named_parameters()}
    gaussians = [name for name, module in net.named_modules() if isinstance(module, GaussianConditional)]
    known = (".mask", *(f"{name}.{table}" for name in gaussians[1:] for table in (*_TABLES, "scale_table")))
    state = {
        name: tensor.half() if name in parameters else tensor
        for name, tensor in net.state_dict().items()
        if not name.endswith(known)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
