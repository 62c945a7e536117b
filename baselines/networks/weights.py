"""Finding, reading and checking a network's weights: a compressai state dict as safetensors, never a pickle."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from baselines.networks.elic import Elic2022Official
from baselines.networks.entropy_models import EntropyBottleneck, EntropyModel, scale_table
from baselines.networks.hyperprior import ScaleHyperprior
from baselines.networks.network import Network
from baselines.neural_codec import locate
from harness.errors import CheckpointError
from harness.files import why
from harness.models import files

NETWORKS: Mapping[str, type[Network]] = {"hyperprior": ScaleHyperprior, "elic": Elic2022Official}

_TABLES = ("_quantized_cdf", "_offset", "_cdf_length")
_SHARED = "gaussian_conditional._quantized_cdf"
_SCALES_MAX, _SCALES_LEVELS = 48, 30
"""The mean brightness of a block needs the widest."""
_PICKLES = (".pth", ".pt", ".tar", ".bin", ".ckpt", ".pkl")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""
_OLD_KEYS = (
    (re.compile(r"(^|\.)_(matri|bias|factor)(?:ces|x|es|s)?\.?(\d+)$"), r"\1<\2>.\3"),
    (re.compile(r"<matri>"), "matrices"),
    (re.compile(r"<bias>"), "biases"),
    (re.compile(r"<factor>"), "factors"),
    (re.compile(r"\.downsample\."), ".skip."),
)
"""Older layouts of CompressAI: an entropy bottleneck's ``_matrices.0`` and ``_matrix0``, and residual blocks' skips."""
_OTHERS = (
    ("ParamAggregation.", "the ELIC of another code base than CompressAI"),
    ("cc_mean_transforms.", "a channel-wise autoregressive model of another code base than CompressAI"),
    ("latent_codec.y.channel_context.", "an ELIC"),
    ("latent_codec.", "a checkerboard model"),
    ("g_a.0.conv1.", "cheng2020-anchor or cheng2020-attn"),
    ("context_prediction.", "mbt2018"),
    ("h_s.4.", "bmshj2018-hyperprior or mbt2018-mean"),
    ("entropy_bottleneck.", "bmshj2018-factorized"),
)
"""The model of a state dict with such a key, the most specific first."""


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file under CompressAI's newest keys, floating ones as float32.

    Raises CheckpointError where there is no safetensors file, or one with a number that is not finite.
    """
    pickled = f"{path}: pickles are not read; where you trust it: harness weights convert {path} model.safetensors"
    if path.suffix in _PICKLES:
        raise CheckpointError(pickled)
    try:
        with path.open("rb") as file:
            if file.read(4).startswith(_PICKLE_STARTS):
                raise CheckpointError(pickled)
        state = load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {why(error)}") from None
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: is not a safetensors file: {error}") from None
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{path}: {name} is not finite throughout")
    try:
        state = newest_keys(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def newest_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the keys that CompressAI gives it today; raises CheckpointError where two become one."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = _unwrapped(name, state)
        for old, today in _OLD_KEYS:
            new = old.sub(today, new)
        if new in found:
            raise CheckpointError(f"holds {new} twice, once as {name}")
        found[new] = tensor
    return found


def _unwrapped(name: str, state: Mapping[str, Tensor]) -> str:
    before = 0
    while any(all(other.startswith(wrapper, before) for other in state) for wrapper in _WRAPPERS):
        before = name.index(".", before) + 1
    return name[before:]


def build(path: Path, codec: str, state: Mapping[str, Tensor]) -> Network:
    """An untrained network of a state dict's sizes; raises CheckpointError where the state is another model's.

    The shapes are compared first: a few small tensors may claim a network of terabytes.
    """
    kind = NETWORKS[codec]
    try:
        sizes = kind.sizes(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; {_instead(state, codec)}") from None
    with torch.device("meta"):
        shapes = {name: tuple(parameter.shape) for name, parameter in kind(*sizes).named_parameters()}
    for name, shape in shapes.items():
        found = tuple(state[name].shape) if name in state else None
        if found != shape:
            wrong = "Missing key" if found is None else f"size mismatch for {name}: {found}, not {shape}, in"
            raise CheckpointError(f"{path}: {wrong} {name}; {_instead(state, codec)}")
    return kind(*sizes)


def _instead(state: Mapping[str, Tensor], codec: str) -> str:
    """Says what a state dict is that is not the codec's."""
    what = what_it_is(state)
    if what is None:
        return "it belongs to another model"
    return f"it is not a {NETWORKS[codec].__name__}: its keys are those of {what}"


def what_it_is(state: Mapping[str, Tensor]) -> str | None:
    """The models that a state dict's keys belong to, in words."""
    return next((what for start, what in _OTHERS if any(name.startswith(start) for name in state)), None)


def load(path: Path, net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a state dict into the network of its sizes, ready for coding; the network may be compressai's own.

    A Gaussian without tables has those of the first one that has some; where there are none at all, they are computed.
    A bound or a mask that is absent is the network's own.

    Raises CheckpointError where anything is missing, unknown, of another shape, or not a table of frequencies.
    """
    state = dict(state)
    shared = next((name.rsplit(".", 1)[0] for name in state if name.endswith(_SHARED)), "")
    for name, module in _entropy_models(net):
        gaussian = hasattr(module, "scale_table")
        for table in (*_TABLES, "scale_table") if gaussian else _TABLES:
            default = state.get(f"{shared}.{table}") if gaussian else None
            value = state.setdefault(f"{name}.{table}", torch.IntTensor() if default is None else default)
            setattr(module, table, torch.empty_like(value))
    for name, buffer in net.named_buffers():
        state.setdefault(name, buffer)
    try:
        net.load_state_dict(state)
    except (RuntimeError, IndexError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CheckpointError(f"{path}: is not a {type(net).__name__}: {' '.join(lines[1:3])[:300]}") from None
    make_ready(f"{path}", net)


def make_ready(place: str, net: Any) -> None:
    """Compute the missing tables and make the coders of all; raises CheckpointError if they are invalid."""
    net.requires_grad_(False).eval()
    try:
        net.update()
    except CheckpointError as error:
        raise CheckpointError(f"{place}: {error}") from None
    for name, module in _entropy_models(net):
        if isinstance(module, EntropyModel):
            try:
                module.freeze()
            except CheckpointError as error:
                raise CheckpointError(f"{place}: {name}: {error}") from None


def _entropy_models(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in net.named_modules() if hasattr(module, "_quantized_cdf"))


def ready(codec: str, weights: float | str) -> Network:
    """The network of a point's weights, ready for coding; raises CheckpointError where there is none."""
    path = locate(codec, weights)
    state = read(path)
    net = build(path, codec, state)
    load(path, net, state)
    return net


def fingerprint(state: Mapping[str, Tensor], n_bytes: int) -> bytes:
    """The first bytes of the SHA-256 of every weight and table: both halves must hold the same ones."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode() + tensor.contiguous().numpy().tobytes())
    return digest.digest()[:n_bytes]


def save(path: Path, net: Network) -> None:
    """Write a trained network as float16, with the integer tables that belong to the rounded weights.

    Buffers stay as they are: bounds such as 1e-9 are zero in float16. The Gaussians' tables, all alike, are stored
    once.
    """
    for module in net.modules():
        if isinstance(module, EntropyBottleneck):
            module.update_quantiles()
    for parameter in net.parameters():
        parameter.data = parameter.data.half().float()
    net.update(scale_table(_SCALES_MAX, _SCALES_LEVELS), force=True)
    parameters = {name for name, _ in net.named_parameters()}
    gaussians = [name for name, module in _entropy_models(net) if hasattr(module, "scale_table")]
    known = (".mask", *(f"{name}.{table}" for name in gaussians[1:] for table in (*_TABLES, "scale_table")))
    state = {
        name: tensor.half() if name in parameters else tensor
        for name, tensor in net.state_dict().items()
        if not name.endswith(known)
    }
    with files.written(path) as unfinished:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, unfinished)
