"""``python -m baselines.networks.convert FILE OUT``: a checkpoint that is a pickle, as safetensors.

It is a separate program, because an untrusted pickle may crash, hang or fill the memory of its reader.
"""

import re
import resource
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from baselines.networks.weights import newest_keys, what_it_is
from harness.errors import CheckpointError
from harness.files import why

_HOLDERS = ("state_dict", "model_state_dict", "network", "net", "model")
_SPARE_BYTES = 2 * 2**30
_GLOBAL = re.compile(r"unsupported global:? *(?:global )?(\S+)", re.IGNORECASE)


def convert(path: Path, out: Path) -> str:
    """Write the state dict of ``path`` to ``out`` and say what it is.

    Raises CheckpointError, and writes nothing, where there is no state dict of tensors in the file.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out}: the file to write ends in .safetensors")
    if out.exists():
        raise CheckpointError(f"{out}: exists; name another file, or remove it first")
    try:
        path.open("rb").close()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {why(error)}") from None
    state = _state_dict(path, _load(path))
    try:
        tensors = {name: tensor.detach().to_dense().contiguous().clone() for name, tensor in newest_keys(state).items()}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{path}: a tensor of it cannot be read: {_said(error)}") from None
    unfinished = out.with_name(out.name + ".part")
    try:
        save_file(tensors, unfinished)
        unfinished.replace(out)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{out}: cannot be written: {_said(error)}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    n_numbers = sum(tensor.numel() for tensor in tensors.values())
    return f"{out}: {len(tensors)} tensors, {n_numbers} numbers; the keys of {what_it_is(tensors) or 'no known model'}"


def _limit_memory(n_bytes: int) -> None:
    """Limit the memory of this process: a small file may unpack to any size."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + n_bytes if most == resource.RLIM_INFINITY else min(most, used + n_bytes)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch passes on a dozen kinds of errors of the unpickler, and its first paragraph advises to trust the file.
        what = _GLOBAL.search(str(error))
        reason = f"it asks for {what[1]}, which is not a tensor" if what else _said(error)
        raise CheckpointError(f"{path}: is not a file of only tensors: {reason}") from None


def _said(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
    return f"{type(error).__name__}: {lines[0].strip()[:200] if lines else 'no reason given'}"


def _state_dict(path: Path, found: Any) -> dict[str, Tensor]:
    """The tensors by their names, unwrapped; numbers beside them, such as an epoch, are left out."""
    while isinstance(found, Mapping):
        holder = next((name for name in _HOLDERS if isinstance(found.get(name), Mapping)), None)
        if holder is None:
            break
        found = found[holder]
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path}: holds a {type(found).__name__}, not a state dict")
    tensors = {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(found)[:8])) or "none"
        raise CheckpointError(f"{path}: holds no tensors where a state dict has them; its keys: {keys}")
    if nested := [str(name) for name, value in found.items() if isinstance(value, Mapping)]:
        raise CheckpointError(f"{path}: holds tensors and more dictionaries: {', '.join(nested[:8])}")
    return tensors


def main() -> None:
    """Convert what the command line names; a mistake is one sentence and status 2."""
    path, out = map(Path, sys.argv[1:])
    _limit_memory(4 * path.stat().st_size + _SPARE_BYTES if path.is_file() else _SPARE_BYTES)
    try:
        print(convert(path, out))
    except CheckpointError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
