"""TOFC as a library: a picture's features are merged, coded to bytes, and decoded from the bytes.

    python examples/merge_and_code.py [PICTURE]

P patches (the thumbnail first)   V features a patch   C merged features a patch   D feature dimension
"""

import sys
from pathlib import Path

from harness.data import pictures, streetsqa
from harness.data.questions import samples
from harness.models.contract import Untimed
from harness.models.onevision import load
from harness.tofc.codec import TofcCodec
from harness.tofc.merging import merge
from harness.tofc.trained import adapter_beside, find_codec

BACKBONE, CODEC = "mini-onevision", "lambda-0.3"


def main(picture: Path | None = None, *, n_clusters: int = 8) -> None:
    """Print the size of each step's result, and how far the decoded features are from the merged ones."""
    if picture is None:
        image = samples(streetsqa.book("test", 0)[:1], paired=False)[0].images()[0]
    else:
        image = pictures.decode(picture.read_bytes())

    # The tower has the adapter that was trained with the codec. Nothing of the language model is read.
    path = find_codec(BACKBONE, CODEC)
    models = load(BACKBONE)
    vision = models.vision(adapter_beside(path, models, ("tower",)))
    codec = TofcCodec.load(path)

    features = vision.see(image, Untimed())
    x_PVD = features.x_PVD
    y_PCD = merge(x_PVD, n_clusters).y_PCD
    stream = codec.compress(y_PCD, features.layout.grid)
    decoded = codec.decompress(stream)
    error_PCD = decoded.y_PCD - y_PCD

    print(f"features  {tuple(x_PVD.shape)}: {2 * x_PVD.numel()} bytes in half precision")
    print(f"merged    {tuple(y_PCD.shape)}: {2 * y_PCD.numel()} bytes in half precision")
    print(f"stream    {len(stream)} bytes, {8 * len(stream) / y_PCD.numel():.2f} bits per element")
    print(f"decoded   {tuple(decoded.y_PCD.shape)}: error {error_PCD.norm() / y_PCD.norm():.1%} of the merged features")
    chosen = set(decoded.expert_PC.flatten().tolist())
    print(f"experts   {len(chosen)} of {codec.config.n_experts} entropy models were chosen")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
