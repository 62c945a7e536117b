"""Streams of the bundled codecs, and digests of their features: every machine has to decode them alike.

``python -m tests.tofc.golden`` writes golden.json again, which is needed only if a codec of the zoo or the format
changes.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from harness.tofc.codec import TofcCodec
from harness.tofc.trained import CODECS

PATH = Path(__file__).with_name("golden.json")
SHAPES = (((0, 0), 1, 2), ((1, 2), 3, 2))
"""The grid, P and C of a codec's requests."""


class Golden(NamedTuple):
    """A stream of a codec of the zoo, and the SHA-256 of its features as little-endian float32."""

    codec: str
    stream: bytes
    sha256: str


def read() -> list[Golden]:
    """All golden streams."""
    rows = json.loads(PATH.read_text())
    return [Golden(row["codec"], base64.b85decode(row["stream"]), row["sha256"]) for row in rows]


def checkpoint(codec: str) -> Path:
    """The file of a codec of the zoo."""
    return CODECS / codec / "codec.safetensors"


def digest(features: np.ndarray) -> str:
    """SHA-256 of features as little-endian float32."""
    return hashlib.sha256(features.astype("<f4").tobytes()).hexdigest()


def features(codec: TofcCodec, n_patches: int, n_clusters: int, seed: int) -> torch.Tensor:
    """Features around the codec's offset, some of them far from it, so that symbols escape."""
    rng = np.random.default_rng(seed)
    shape = (n_patches, n_clusters, codec.config.dim)
    u_PCD = rng.laplace(0, 0.7, shape) * np.exp(0.7 * rng.standard_normal((n_patches, n_clusters, 1)))
    u_PCD += (rng.random(shape) < 0.01) * rng.normal(0, 1e5, shape)
    step_D, offset_D = codec.frozen.step_D.numpy(), codec.offset_D.detach().numpy()
    return torch.from_numpy((offset_D + step_D * u_PCD).astype(np.float32))


def main() -> None:
    """Write the golden streams."""
    rows = []
    for path in sorted(CODECS.glob("*/*/codec.safetensors")):
        codec = TofcCodec.load(path)
        for seed, (grid, n_patches, n_clusters) in enumerate(SHAPES):
            stream = codec.compress(features(codec, n_patches, n_clusters, seed), grid)
            sha256 = digest(codec.decompress(stream).y_PCD.numpy())
            name = path.parent.relative_to(CODECS).as_posix()
            rows.append({"codec": name, "stream": base64.b85encode(stream).decode(), "sha256": sha256})
    PATH.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
