"""A checkpoint's files: where they are, which part each tensor belongs to, and the fingerprint of its weights.

A checkpoint is a folder as transformers saves it: config.json, model*.safetensors, tokenizer.json. Nothing is fetched
from a network (:mod:`harness.models.hub` does that), no pickle is read, and no file outside the folder is opened.
Nothing here imports torch.
"""

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from harness.catalog import ZOO
from harness.errors import CheckpointError, UnavailableError
from harness.files import UNFINISHED, Stamp, stamp, why
from harness.models.contract import Part

SOURCES: Mapping[str, str | Path] = {
    "llava-onevision-7b": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "llava-onevision-0.5b": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "llava-1.5-7b": "llava-hf/llava-1.5-7b-hf",
    "internvl3-1b": "OpenGVLab/InternVL3-1B-hf",
    "internvl3-2b": "OpenGVLab/InternVL3-2B-hf",
    "internvl3-8b": "OpenGVLab/InternVL3-8B-hf",
    "gemma-3-4b": "google/gemma-3-4b-it",
    "gemma-3-12b": "google/gemma-3-12b-it",
    "gemma-3-27b": "google/gemma-3-27b-it",
    "mini-onevision": ZOO / "mini-onevision",
    "mini-nano": ZOO / "mini-nano",
    "mini-llava15": ZOO / "mini-llava15",
}
"""Where the weights of each name are: a hub id, or a folder of the zoo."""

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of a LoRA adapter, as peft names them."""

_NOT_PLAIN = (
    *("use_dora", "use_rslora", "use_qalora", "use_bdlora", "fan_in_fan_out", "lora_bias"),
    *("rank_pattern", "alpha_pattern", "layer_replication", "target_parameters", "trainable_token_indices"),
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "velora_config"),
)
"""With any of these of an adapter's configuration, more or something else is computed than W + scale * B A."""
_KEEP_THE_BASE = (True, False, None, "gaussian", "orthogonal", "eva")
"""The ways to begin a LoRA's training that leave the base's weights as they are."""

PARTS: tuple[Part, ...] = ("tower", "projector", "language")

PINNED = "tofc-harness"
"""The reference, beside the hub's own such as ``main``, to the commit that the harness fetched and uses."""

SETTINGS = ("config.json", "generation_config.json", "tokenizer.json")
"""The files that decide, beside the weights, what a model answers: its layers and tiles, its tokens, where it stops."""

INDEX = "model.safetensors.index.json"
"""Which file has which tensor, where there are several."""
_NAMES: tuple[tuple[str, Part, str], ...] = (
    (r"(?:model\.)?vision_tower\.(?:vision_model\.)?", "tower", ""),
    (r"(?:model\.)?multi_modal_projector\.", "projector", "multi_modal_projector."),
    (r"(?:model\.)?image_newline$", "projector", "image_newline"),
    (r"language_model\.model\.|model\.language_model\.", "language", "model."),
    (r"language_model\.lm_head\.|lm_head\.", "language", "lm_head."),
)
"""How tensors are called in checkpoints of transformers before 5.0 and after, and in their part."""
_PLACES = tuple((re.compile(pattern), part, prefix) for pattern, part, prefix in _NAMES)

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""From Linux's headers: paths are relative to the working folder; two names change places (rename(2))."""

_COMPUTED = (".position_ids", ".rotary_emb.inv_freq")
_HEAD = "lm_head.weight"
_EMBEDDING = "model.embed_tokens.weight"
_FEW = 256


class Place(NamedTuple):
    """Where a tensor is: a file and its key there."""

    file: Path
    key: str


def place_of(key: str) -> tuple[Part, str] | None:
    """The part that a checkpoint's tensor belongs to, and its name there; None for one that no part has.

    Buffers that older versions of transformers stored and newer ones compute are no weights.
    """
    if key.endswith(_COMPUTED):
        return None
    for pattern, part, prefix in _PLACES:
        if match := pattern.match(key):
            return part, prefix + key[match.end() :]
    return None


def locate(name: str, source: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint: ``source`` itself, or a hub id's snapshot in the local cache (``HF_HOME``).

    Raises UnavailableError, which says how to get it, if it is neither, or incomplete.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.is_relative_to(ZOO):
        raise UnavailableError(f"{name}: its weights are not in {folder}; 'make weights' trains them")
    brings = f"harness weights get {name}" if str(source) == SOURCES.get(name) else f"hf download {source}"
    snapshot = snapshot_of(str(source))
    if snapshot is None:
        raise UnavailableError(
            f"{name}: {source} is neither a folder nor in the local cache of the Hugging Face hub; run '{brings}' on a "
            "machine with a network (HF_HOME says where the cache is), or give the path of a folder with its "
            "config.json, tokenizer.json and safetensors as weights"
        )
    if (absent := first_absent(snapshot)) is not None:
        raise UnavailableError(f"{name}: {snapshot} has no {absent} yet; '{brings}' fetches what is missing")
    return snapshot


def hub_folder(hub_id: str) -> Path:
    """Where the hub's clients keep a repository, if it is there; raises UnavailableError without a home folder."""
    named = os.environ.get("HF_HUB_CACHE")
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    try:
        cache = Path(named or Path(home) / "hub").expanduser()
    except RuntimeError:
        raise UnavailableError("the Hugging Face hub's cache: there is no home folder; name one in HF_HOME") from None
    return cache / f"models--{hub_id.replace('/', '--')}"


def snapshot_of(hub_id: str) -> Path | None:
    """A repository's snapshot in the hub's cache: the one that the harness fetched, or the newest of another client.

    None where there is none.
    """
    for name in (PINNED, "main"):
        try:
            repository = hub_folder(hub_id)
            commit = (repository / "refs" / name).read_text(encoding="utf-8").strip()
            if (folder := repository / "snapshots" / commit).is_dir():
                return folder
        except (OSError, ValueError, UnavailableError):
            continue
    return None


def first_absent(folder: Path) -> str | None:
    """A file that is missing from a snapshot: another client creates the snapshot before all files are downloaded."""
    names = ["config.json", "tokenizer.json"]
    if (index := folder / INDEX).is_file():
        names += sorted({name for _, name in weight_map(index)})
    elif not any(folder.glob("*.safetensors")):
        names.append("model.safetensors")
    return next((name for name in names if not (folder / name).is_file()), None)


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Where the body writes a file of tensors, or a folder with one; afterwards it is at ``path``, in one step.

    A folder replaces a folder, or a link to one, and a file replaces no folder. On some network file systems a folder
    replaces another in two steps, and a kill between them loses both. safetensors writes under a name of its own choice
    first, which a kill leaves behind: so it writes in a folder that :func:`harness.runs.disk.remove_unfinished` knows.
    Raises OSError, naming ``path``, where the body cannot write; what was there is then unchanged.
    """
    # The process id is not enough: containers that share a folder count their processes apart.
    folder = path.with_name(f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}")
    new = folder / path.name
    try:
        folder.mkdir(parents=True)
        yield new
        if not (new.is_dir() and path.is_dir()):
            new.replace(path)
        elif not _exchanged(new, path):
            before = path.replace(folder / ".before")
            try:
                new.replace(path)
            except OSError:
                before.replace(path)
                raise
    except OSError as error:
        raise OSError(error.errno, why(error), str(path)) from None
    except SafetensorError as error:
        if (found := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exchanged(new: Path, old: Path) -> bool:
    """Gives each of two folders the other's name, in one step; False where the system or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises CheckpointError where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {why(error)}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds a {type(found).__name__}; a JSON object is expected")
    return found


def adapter_config(folder: Path) -> dict[str, Any]:
    """The configuration of the adapter in ``folder``; raises CheckpointError for more than a plain LoRA."""
    path = folder / ADAPTER_CONFIG
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: peft_type is {config.get('peft_type')!r}; LORA is expected")
    for key in _NOT_PLAIN:
        if config.get(key):
            raise CheckpointError(f"{path}: {key} is {config[key]!r}; a plain LoRA is expected")
    if (started := config.get("init_lora_weights", True)) not in _KEEP_THE_BASE:
        raise CheckpointError(
            f"{path}: init_lora_weights is {started!r}, which may have changed the base's weights in training; an "
            "adapter of the published weights is expected, as peft saves it with "
            "path_initial_model_for_weight_conversion"
        )
    if config.get("bias", "none") != "none":
        raise CheckpointError(f"{path}: bias is {config['bias']!r}; a plain LoRA is expected")
    for key in ("r", "lora_alpha"):
        if not isinstance(config.get(key), int) or isinstance(config[key], bool) or config[key] < 1:
            raise CheckpointError(f"{path}: {key} is {config.get(key)!r}; a whole number from 1 on is expected")
    return config


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself, from its header.

    Raises CheckpointError for a file that is absent, incomplete, or of another kind.
    """
    try:
        # The errors of safe_open do not say whether the path is a folder or below a file.
        path.open("rb").close()
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {why(error)}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: is damaged, or is not safetensors: {error}") from None


def refuse_unreadable(path: Path) -> None:
    """Raises CheckpointError for what is not a complete safetensors file; only its header and length are read."""
    metadata(path)


def tensors(folder: Path, part: Part) -> Mapping[str, Place]:
    """The tensors of a part by their names in it; of files whose tensors an index lists, opens those of a tied head.

    Raises CheckpointError where there are no weights, or the index names what is no safetensors file in the folder.
    """
    read = [*folder.glob("*.safetensors"), folder / INDEX, folder / "config.json"]
    return _tensors_of(folder, part, tuple((file.name, stamp(file)) for file in sorted(read) if file.is_file()))


@functools.lru_cache(maxsize=64)
def _tensors_of(folder: Path, part: Part, facts: tuple[tuple[str, Stamp], ...]) -> Mapping[str, Place]:
    found = dict(_tensors(folder, facts)[part])
    has_both = {_HEAD, _EMBEDDING} <= found.keys() and (folder / "config.json").is_file()
    if has_both and is_tied(read_json(folder / "config.json")) and _are_equal(found[_HEAD], found[_EMBEDDING]):
        # Some versions of transformers stored it beside the embedding that it is.
        del found[_HEAD]
    return found


@functools.lru_cache(maxsize=64)
def _tensors(
    folder: Path,
    facts: tuple[tuple[str, Stamp], ...],  # noqa: ARG001 - they say when to read again
) -> Mapping[Part, Mapping[str, Place]]:
    parts: dict[Part, dict[str, Place]] = {part: {} for part in PARTS}
    for key, file in _listed(folder):
        if place := place_of(key):
            part, name = place
            parts[part][name] = Place(file, key)
    return parts


def _are_equal(one: Place, other: Place) -> bool:
    """Whether two tensors have one shape, and the same first and last values: rows are added at the end."""
    places = {"one": one, "other": other}
    return all(
        shape == other_shape and np.array_equal(values, other_values)
        for (shape, values), (other_shape, other_values) in (_few(places).values(), _few(places, last=True).values())
    )


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the head shares the embedding's weights: older checkpoints say so only in their text model's config."""
    text = config.get("text_config")
    own = text.get("tie_word_embeddings") if isinstance(text, Mapping) else None
    return bool(config.get("tie_word_embeddings") or own)


def weight_map(index: Path) -> Iterator[tuple[str, str]]:
    """An index's tensors, each with its file; raises CheckpointError for what is no safetensors file beside it."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{index}: its 'weight_map' is not an object of tensors and files")
    for key, name in found.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: maps {key} to {name!r}; a safetensors file in the same folder is expected, others are "
                "not opened"
            )
        yield key, name


def _listed(folder: Path) -> Iterator[tuple[str, Path]]:
    if (index := folder / INDEX).is_file():
        yield from ((key, folder / name) for key, name in weight_map(index))
        return
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: there are no weights (*.safetensors); pickled ones are not read")
    for file in files:
        try:
            with safe_open(file, framework="np") as opened:
                keys = list(opened.keys())
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: its weights cannot be read: {error}") from None
        yield from ((key, file) for key in keys)


def fingerprint(folder: Path, part: Part) -> str:
    """The fingerprint of a part's weights: :func:`of_tensors` of its tensors, from a few values of each.

    Raises CheckpointError where they cannot be read.
    """
    return of_tensors(_few(tensors(folder, part)))


def _few(places: Mapping[str, Place], *, last: bool = False) -> dict[str, tuple[tuple[int, ...], NDArray[np.uint16]]]:
    """The shape and the first values of tensors, or the ``last`` ones, by their names."""
    by_file: dict[Path, list[tuple[str, str]]] = {}
    for name, place in places.items():
        by_file.setdefault(place.file, []).append((name, place.key))
    few: dict[str, tuple[tuple[int, ...], NDArray[np.uint16]]] = {}
    for file, names in by_file.items():
        header, start = _header(file)
        with file.open("rb") as opened:
            for name, key in names:
                dtype, shape, begin = _facts(header, key, file)
                if dtype not in _VALUES:
                    raise CheckpointError(
                        f"{file}: {key} is stored as {dtype}; float32, float16 and bfloat16 are read, quantised "
                        "weights are not"
                    )
                n_all, size = int(np.prod(shape, dtype=np.int64)), 4 if dtype == "F32" else 2
                n = min(_FEW, n_all)
                opened.seek(start + begin + (n_all - n) * size * last)
                data = opened.read(n_bytes := n * size)
                if len(data) < n_bytes:
                    raise CheckpointError(f"{file}: its weights cannot be read: {key} lies beyond its end")
                few[name] = shape, _VALUES[dtype](data)
    return few


def elements(folder: Path, part: Part) -> int:
    """How many weights a part has; raises CheckpointError where they cannot be read. Only headers are read.

    A head that shares the embedding's weights counts once, as it is stored.
    """
    headers: dict[Path, Mapping[str, Any]] = {}
    total = 0
    for place in tensors(folder, part).values():
        if place.file not in headers:
            headers[place.file] = _header(place.file)[0]
        total += int(np.prod(_facts(headers[place.file], place.key, place.file)[1], dtype=np.int64))
    return total


def of_tensors(few: Mapping[str, tuple[tuple[int, ...], NDArray[np.uint16]]]) -> str:
    """A digest of tensors by name: of each its shape and its first 256 values as bfloat16, in bits.

    Weights are stored in 16 bits: rounded to bfloat16 they are the same however they were read. A head that shares the
    embedding's weights counts once.
    """
    total = hashlib.sha256()
    for name, (shape, values) in sorted(few.items()):
        total.update(f"{name} {shape}".encode())
        total.update(values.astype("<u2").tobytes())
    return total.hexdigest()[:16]


def _bfloat16_of(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to the nearest, ties to even."""
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


_VALUES: Mapping[str, Callable[[bytes], NDArray[np.uint16]]] = {
    "F32": lambda data: _bfloat16_of(np.frombuffer(data, "<f4")),
    "F16": lambda data: _bfloat16_of(np.frombuffer(data, "<f2").astype(np.float32)),
    "BF16": lambda data: np.frombuffer(data, "<u2"),
}


def _facts(header: Mapping[str, Any], key: str, file: Path) -> tuple[str, tuple[int, ...], int]:
    """What a header says of a tensor: how it is stored, its shape, and where it begins in the data."""
    try:
        facts = header[key]
        return str(facts["dtype"]), tuple(int(side) for side in facts["shape"]), int(facts["data_offsets"][0])
    except (KeyError, TypeError, ValueError, IndexError):
        raise CheckpointError(f"{file}: its weights cannot be read: its header does not describe {key}") from None


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header, and where its data begins."""
    try:
        with file.open("rb") as opened:
            n = int.from_bytes(opened.read(8), "little")
            if n > 100_000_000:
                raise ValueError(f"its header claims {n} bytes")
            header = json.loads(opened.read(n))
            if not isinstance(header, dict):
                raise ValueError("its header is not a JSON object")
            return header, 8 + n
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: its weights cannot be read: {error}") from None
