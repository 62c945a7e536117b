"""What a training leaves in a folder, and where codecs are found. Nothing here imports torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from harness import catalog
from harness.errors import CheckpointError, UnavailableError, unknown_name
from harness.models import files
from harness.models.contract import Models, Part

CODECS = catalog.ZOO / "tofc"
"""The project's own codecs: a folder for each backbone, in it one for each codec."""

TRAINED = Path("codecs")
"""One's own, in the working folder, laid out as the project's are."""

CODEC, ADAPTER, CARD, MANIFEST = "codec.safetensors", "adapter", "card.md", "manifest.json"
REDUCER = "reducer.safetensors"
"""What makes few features of many, where that is learned."""


def find_codec(backbone: str, codec: str) -> Path:
    """The codec's file: of a folder or a file given as a path, or by its name in :data:`TRAINED` or :data:`CODECS`.

    Raises UnavailableError, listing the known names, where there is none.
    """
    folders = [TRAINED / backbone, CODECS / backbone]
    if (place := find(codec, folders, (CODEC,))) is not None:
        return place
    raise UnavailableError(
        f"{unknown_name(f'codec of {backbone}', codec, known(folders, (CODEC,)) or ['none'])}; train one to "
        f"{TRAINED / backbone / codec}, or give the path of a training's folder"
    )


def find(name: str, folders: Sequence[Path], marks: Sequence[str]) -> Path | None:
    """The file that marks the result of that name: one of ``marks`` in the folder ``name`` of one of ``folders``.

    A codec may be a file by itself, ``<name>.safetensors``; a name with a slash, or a dot before it, is a path.
    """
    if "/" in name or name.startswith("."):
        places = [Path(name), *(Path(name) / mark for mark in marks)]
    else:
        flat = [f"{name}.safetensors"] if CODEC in marks else []
        places = [folder / place for folder in folders for place in (*flat, *(f"{name}/{mark}" for mark in marks))]
    return next((place for place in places if place.is_file()), None)


def known(folders: Sequence[Path], marks: Sequence[str]) -> list[str]:
    """The names that :func:`find` knows."""
    found = {path.parent.name for folder in folders for mark in marks for path in folder.glob(f"*/{mark}")}
    if CODEC in marks:
        found |= {path.stem for folder in folders for path in folder.glob("*.safetensors")}
    return sorted(found)


def find_by_hash(model: bytes, folder: Path) -> Path | None:
    """The codec's checkpoint below ``folder`` whose hash begins with ``model``, as a stream's header has it.

    It may be of any codec of features; None if there is none.
    """
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
        except (OSError, SafetensorError):
            continue
        if "-codec-" in metadata.get("format", "") and metadata.get("hash", "").startswith(model.hex()):
            return path
    return None


def adapter_beside(codec: Path, models: Models, parts: Sequence[Part]) -> Path | None:
    """The folder of the adapter that lies beside a codec; None where the codec was trained without one.

    Raises CheckpointError for a codec that was trained around other weights of these parts of the model.
    """
    path = codec.parent / MANIFEST
    if codec.name != CODEC or not path.exists():
        return None
    wanted = manifest(path)["fingerprints"]
    for part in parts:
        if (found := models.fingerprint(part)) not in (wanted[part], "random"):
            raise CheckpointError(
                f"{codec.parent}: was trained with weights {wanted[part]} of the {part} of {models.name}, and these "
                f"are {found}; 'harness train' makes it again"
            )
    adapter = codec.parent / ADAPTER
    return adapter if adapter.is_dir() else None


def manifest(path: Path) -> dict[str, Any]:
    """A training's manifest; raises CheckpointError where there is none in the file."""
    found = files.read_json(path)
    wanted = found.get("fingerprints")
    if not isinstance(wanted, dict) or set(wanted) != set(files.PARTS):
        raise CheckpointError(
            f"{path}: is not a training's manifest: its 'fingerprints' must hold {', '.join(files.PARTS)}"
        )
    return found
