"""What a training leaves in a folder, and where codecs are found. Nothing here imports torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import catalog
from harness.errors import CheckpointError, UnavailableError, unknown_name
from harness.models import files
from harness.models.contract import Models, Part

CODECS = catalog.ZOO / "tofc"
"""The project's own codecs: a folder for each backbone, in it one for each codec."""

TRAINED = Path("codecs")
"""One's own, in the working folder, laid out as the project's are."""

CODEC, ADAPTER, CARD, MANIFEST = "codec.safetensors", "adapter", "card.md", "manifest.json"


def find_codec(backbone: str, codec: str) -> Path:
    """The codec's file: of a folder or a file given as a path, or by its name in :data:`TRAINED` or :data:`CODECS`.

    Raises UnavailableError, listing the known names, where there is none.
    """
    folders = [TRAINED / backbone, CODECS / backbone]
    places = [folder / name for folder in folders for name in (f"{codec}.safetensors", f"{codec}/{CODEC}")]
    if "/" in codec or codec.startswith("."):
        places = [Path(codec), Path(codec) / CODEC]
    for place in places:
        if place.is_file():
            return place
    known = {path.stem for folder in folders for path in folder.glob("*.safetensors")}
    known |= {path.parent.name for folder in folders for path in folder.glob(f"*/{CODEC}")}
    raise UnavailableError(
        f"{unknown_name(f'codec of {backbone}', codec, known or ['none'])}; train one to {TRAINED / backbone / codec}, "
        "or give the path of a training's folder"
    )


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
