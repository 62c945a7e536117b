"""Golden streams of the bundled codecs: the same features on every machine, and by an independent decoder."""

import re
from pathlib import Path

import numpy as np
import pytest

from harness.tofc import bitstream
from harness.tofc.codec import TofcCodec
from harness.tofc.trained import CODECS
from tests.tofc import golden, plain_decoder

DOCUMENT = Path(__file__).parents[2] / "docs" / "bitstream.md"


def test_every_codec_of_the_zoo_has_golden_streams() -> None:
    """No bundled codec is left out, and some symbols of the golden streams escape."""
    names = {path.parent.relative_to(CODECS).as_posix() for path in CODECS.glob("*/*/codec.safetensors")}
    assert {row.codec for row in golden.read()} == names


@pytest.mark.slow
@pytest.mark.parametrize("row", golden.read(), ids=lambda row: f"{row.codec} {len(row.stream)} bytes")
def test_a_golden_stream_decodes_to_the_same_features_everywhere(row: golden.Golden) -> None:
    """Here, too, the package's decoder and the one written from the description give the recorded features exactly."""
    path = golden.checkpoint(row.codec)
    codec = TofcCodec.load(path)
    assert golden.digest(codec.decompress(row.stream).y_PCD.numpy()) == row.sha256
    plain = plain_decoder.decode(row.stream, path)
    assert golden.digest(plain.features) == row.sha256
    side = bitstream.read_side_information(row.stream, codec.frozen.model, codec.frozen.tables)
    assert plain.experts == side.expert_N.tolist()
    assert plain.z == side.z_NZ.tolist()
    # Encoding again gives the same stream: the words, too, are those of the first encoder.
    symbols = bitstream.Symbols(side.expert_N, side.z_NZ, np.array(plain.y))
    levels = [plain_decoder.h_s(_numpy(codec), *feature)[1] for feature in zip(plain.experts, plain.z, strict=True)]
    level_ND = np.array(levels, np.uint8)
    assert bitstream.write(side.header, codec.frozen.tables, symbols, level_ND) == row.stream


def _numpy(codec: TofcCodec) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in codec.frozen.tensors.items()}


def test_the_documents_example_is_a_stream() -> None:
    """docs/bitstream.md shows a stream that decodes to the symbols that it says."""
    text = DOCUMENT.read_text()
    example = text[text.index("## An example") :]
    name = re.search(r"`harness/zoo/tofc/(\S+)/codec\.safetensors`", example)
    rows = re.findall(r"^    ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:  |$)", example, re.MULTILINE)
    assert name is not None
    stream = bytes.fromhex("".join(rows))
    contents = plain_decoder.decode(stream, golden.checkpoint(name[1]))
    assert f"model of the feature: {contents.experts[0]}" in example
    assert f"z: {' '.join(map(str, contents.z[0]))}\n" in example
    assert f"y: {' '.join(map(str, contents.y[0][:10]))} ...\n" in example
    codec = TofcCodec.load(golden.checkpoint(name[1]))
    assert np.array_equal(codec.decompress(stream).y_PCD[0].numpy(), contents.features)
