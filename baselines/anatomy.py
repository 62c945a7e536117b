"""The anatomy of the baselines' payloads that are not picture files: neural codecs' files, raw features."""

import contextlib
import functools
from pathlib import Path

from baselines.neural_container import MAGIC, MAX_SIDE_PX, MODEL_BYTES, CodedPicture, unpack
from baselines.pillow_codecs import JXL_CODESTREAM, jxl_size
from baselines.raw_features import unpack as unpack_features
from harness.errors import BitstreamError
from harness.schemes.anatomy import Anatomy

_MOST_GROUPS = 16
_KINDS = {1: "a factorized prior", 2: "hyperprior", 3: "a checkerboard model"}
"""What has so few strings."""
_RAW_MAGIC = b"RAWF"


def of_jxl(body: bytes, codec: Path | None) -> Anatomy | None:  # noqa: ARG001
    """A bare JPEG XL codestream, as a whole; raises BitstreamError for one that ends in its size."""
    if not body.startswith(JXL_CODESTREAM):
        return None
    width_px, height_px = jxl_size(body)
    return Anatomy(f"a JPEG XL codestream, {width_px} x {height_px} px", {"all": 8 * len(body)})


def of_neural_file(body: bytes, codec: Path | None) -> Anatomy | None:  # noqa: ARG001
    """A file of :mod:`baselines.neural_container`: header, z and y of a learned image codec."""
    if not body.startswith(MAGIC):
        return None
    model = body[len(MAGIC) : len(MAGIC) + MODEL_BYTES]
    picture = _picture(body, model)
    *y, z = picture.strings if len(picture.strings) > 1 else (*picture.strings, b"")
    of_y = sum(map(len, y))
    header = len(body) - of_y - len(z)
    kind = _KINDS.get(len(picture.strings), "ELIC")
    what = f"a file of {kind}, {_name(model)}, {picture.width_px} x {picture.height_px} px"
    notes = []
    if kind == "ELIC":
        of_group = [sum(map(len, y[2 * group : 2 * group + 2])) for group in range(len(y) // 2)]
        notes.append("bytes of each group of y's channels: " + ", ".join(map(str, of_group)))
    return Anatomy(what, {"header": 8 * header, "z": 8 * len(z), "y": 8 * of_y}, notes)


def of_raw_features(body: bytes, codec: Path | None) -> Anatomy | None:  # noqa: ARG001
    """A payload of :mod:`baselines.raw_features`: header and half-precision features."""
    if not body.startswith(_RAW_MAGIC):
        return None
    seen, merged = unpack_features(body)
    n_patches, n_features, dim = seen.x_PVD.shape
    features = 16 * seen.x_PVD.numel()
    (n_h, n_w), (height, width) = seen.layout.grid, seen.layout.image_size
    what = (
        f"raw features of a picture of {width} x {height} px, grid {n_h} x {n_w}: {n_patches} "
        f"patches of {n_features} {'merged ' if merged else ''}features in {dim} dimensions"
    )
    return Anatomy(what, {"header": 8 * len(body) - features, "features": features})


def _picture(body: bytes, model: bytes) -> CodedPicture:
    """The file's strings, however many: those of y, two for each group of ELIC's channels, then that of z.

    The fewest that fit are right: with fewer than there are, the lengths not read and their strings are left over.
    """
    for n_strings in range(1, 2 * _MOST_GROUPS + 1):
        with contextlib.suppress(BitstreamError):
            return unpack(body, model, n_strings, MAX_SIDE_PX**2)
    return unpack(body, model, 2 * _MOST_GROUPS + 1, MAX_SIDE_PX**2)


def _name(model: bytes) -> str:
    """A model by its name in a scenario's ``weights:``, if it is bundled."""
    known = _bundled()
    return f"bundled weights {known[model]:g} (model {model.hex()})" if model in known else f"model {model.hex()}"


@functools.cache
def _bundled() -> dict[bytes, float]:
    """The lambda of each bundled model."""
    from baselines.networks.weights import NETWORKS, fingerprint, ready
    from baselines.neural_codec import bundled

    found = {}
    for codec in NETWORKS:
        for rate_weight in bundled(codec):
            found[fingerprint(ready(codec, rate_weight).state_dict(), MODEL_BYTES)] = rate_weight
    return found
