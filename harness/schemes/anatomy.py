"""What a payload is made of: the parts that its bits went to, whichever scheme wrote it.

Each kind of body has a reader in :data:`harness.catalog.PAYLOADS`: a function of the body, and of the checkpoint that
the user named if any, that returns None for a body of another kind.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from harness import catalog
from harness.errors import BitstreamError
from harness.tofc import bitstream
from harness.tofc.codec import TofcCodec
from harness.tofc.feature_codec import FeatureCodec
from harness.tofc.trained import find_by_hash


@dataclasses.dataclass(frozen=True, slots=True)
class Anatomy:
    """What one picture's body is, in a phrase; its parts in their order, with their bits; what else is known of it.

    The bits sum to those of the body.
    """

    what: str
    bits: Mapping[str, int]
    notes: Sequence[str] = ()


def of_body(body: bytes, codec: Path | None = None) -> Anatomy:
    """The anatomy of one picture's body; ``codec`` is the checkpoint to read a stream of features with.

    Raises BitstreamError for a damaged body, and for one that no scheme writes.
    """
    for name in catalog.PAYLOADS:
        found: Anatomy | None = catalog.load("kind of payload", name, catalog.PAYLOADS)(body, codec)
        if found is not None:
            return found
    begins = f"{len(body)} bytes that begin with {body[:4].hex(' ')}" if body else "0 bytes"
    raise BitstreamError(f"{begins} are no payload of this harness; known: {', '.join(catalog.PAYLOADS)}")


def of_stream(body: bytes, codec: Path | None) -> Anatomy | None:
    """TOFC's stream, or that of an ablation: where its bits went, if the checkpoint that wrote it is at hand."""
    if not body.startswith(bitstream.MAGIC):
        return None
    header = bitstream.read_header(body)
    what = (
        f"a TOFC stream of model {header.model.hex()}, grid {header.grid[0]} x {header.grid[1]}: "
        f"{header.n_patches} patches of {header.n_clusters} features"
    )
    if (path := codec or _checkpoint(header.model)) is None:
        note = f"no checkpoint of model {header.model.hex()} is bundled: give one with --codec to see the parts"
        return Anatomy(what, {"all": 8 * len(body)}, [note])
    decoded = codec_of(path).load(path).decompress(body, limits=None)
    budget = decoded.budget
    use = decoded.expert_PC.flatten().bincount().tolist()
    return Anatomy(
        what,
        {"header": budget.header_bits, "experts": budget.expert_bits, "z": budget.z_bits, "y": budget.y_bits},
        [
            f"{budget.y_bits / decoded.y_PCD.numel():.3f} bits for each element of y",
            "features of each entropy model: " + ", ".join(f"{expert}: {n}" for expert, n in enumerate(use) if n),
        ],
    )


def _checkpoint(model: bytes) -> Path | None:
    """The bundled checkpoint of a model, if there is one."""
    folders = [catalog.load("folder of codecs", name, catalog.CODEC_FOLDERS) for name in catalog.CODEC_FOLDERS]
    return next((path for folder in folders if (path := find_by_hash(model, folder)) is not None), None)


def codec_of(path: Path) -> type[FeatureCodec]:
    """The class of the codec whose checkpoint is at ``path``: TOFC's for a file that does not say, or is none."""
    name = _format(path)
    found: type[FeatureCodec] = (
        TofcCodec if name is None else catalog.load("codec of features", name, catalog.CODEC_FORMATS)
    )
    return found


def _format(path: Path) -> str | None:
    """The format of a checkpoint of features' codecs; None for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("format")
    except (OSError, SafetensorError):
        return None
    return found if found in catalog.CODEC_FORMATS else None
