"""Streams from another machine, and the comparison that finds what differs in them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from baselines.neural_codec import bundled
from harness import catalog
from harness.errors import ResultsError
from tools import portability

GOLDEN = Path(__file__).parent / "golden"
POINTS = portability.POINTS


@pytest.mark.slow
def test_streams_coded_on_64_bit_arm_decode_to_the_same_bits_here() -> None:
    """Every bundled codec of features and network for pictures, the strings' symbols and the features alike."""
    manifest = json.loads((GOLDEN / portability.MANIFEST).read_text())
    assert manifest["machine"]["architecture"] == "aarch64"
    coded = {request["codec"] for request in manifest["requests"]}
    known = {f"{kind}/{point}" for kind in portability.NETWORKS for point in bundled(kind)}
    for backbone in portability.BACKBONES:
        known |= portability.feature_codecs(backbone).keys()
    assert coded == known
    told, wrong = portability.decode(GOLDEN)
    assert wrong == 0, "\n".join(told)
    assert sum("0 refused, 0 differ" in line for line in told) == 4


@pytest.fixture(scope="module")
def few() -> Any:
    """One backbone, two counts of clusters, one network and two schemes: the same steps in a few seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portability, "BACKBONES", ("mini-llava15",))
        patch.setattr(portability, "CLUSTERS", (2, 3))
        patch.setattr(portability, "NETWORKS", ("hyperprior",))
        jpeg, tofc = {"quality": 20, "merge_to": 0.02}, {"codec": "lambda-0.1", "merge_to": 0.02}
        patch.setattr(portability, "POINTS", {"jpeg": jpeg, "tofc": tofc})
        yield


@pytest.fixture(scope="module")
def coded(few: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The streams that this machine codes."""
    folder = tmp_path_factory.mktemp("exchange") / "streams"
    portability.code(folder, 1, 1, show=lambda _: None)
    return folder


@pytest.fixture
def copy(coded: Path, tmp_path: Path) -> Path:
    """A copy of them, to be changed."""
    for name in (portability.MANIFEST, portability.TENSORS):
        (tmp_path / name).write_bytes((coded / name).read_bytes())
    return tmp_path


@pytest.mark.slow
def test_a_machine_agrees_with_itself(coded: Path) -> None:
    """Streams, clusters, features and pictures: nothing differs."""
    told, wrong = portability.decode(coded)
    assert wrong == 0
    assert "  features: zoo: 4 streams, 0 refused, 0 differ" in told
    assert "  picture: hyperprior: 3 streams, 0 refused, 0 differ" in told
    assert any("2 schemes, 0 refused, 0 answers differ; 2 of 2 payloads are the bytes" in line for line in told), told
    assert any("0 of 2 patches have other clusters (0 of 648 labels)" in line for line in told), told
    assert "  the pictures drawn here: 1 of 1 equal" in told


@pytest.mark.slow
def test_what_differs_is_counted(copy: Path) -> None:
    """A flipped bit is refused by the stream's checksum; another digest is a difference, in features and pictures."""
    tensors = load_file(copy / portability.TENSORS)
    manifest = json.loads((copy / portability.MANIFEST).read_text())
    features = [request for request in manifest["requests"] if request["kind"] == "features"]
    (pictured, *_) = (request for request in manifest["requests"] if request["kind"] == "picture")
    tensors[features[0]["stream"]][20] ^= 1
    features[1]["decoded"] = pictured["decoded"] = "0" * 32
    labels = next(name for name in tensors if name.startswith("labels/"))
    tensors[labels][0, 0, :3] = 1 - tensors[labels][0, 0, :3].clamp(0, 1)
    manifest["pictures"][0] = "0" * 64
    manifest["answers"]["jpeg"] = "something else"
    tensors["request/tofc"][30] ^= 1
    save_file(tensors, copy / portability.TENSORS)
    (copy / portability.MANIFEST).write_text(json.dumps(manifest))
    told, wrong = portability.decode(copy)
    assert wrong == 4
    assert any("2 schemes, 1 refused, 1 answers differ; 1 of 2 payloads are the bytes" in line for line in told), told
    assert "  features: zoo: 4 streams, 1 refused, 1 differ" in told
    assert "  picture: hyperprior: 3 streams, 0 refused, 1 differ" in told
    assert any("1 of 2 patches have other clusters (3 of 648 labels)" in line for line in told), told
    assert "  the pictures drawn here: 0 of 1 equal" in told
    assert portability.main(["decode", str(copy)]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["absent", "no json", "another format", "no tensors"])
def test_a_folder_that_holds_no_streams_is_refused_in_a_sentence(
    few: None, copy: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence names the folder."""
    manifest = copy / portability.MANIFEST
    if damage == "absent":
        manifest.unlink()
    elif damage == "no json":
        manifest.write_text("{")
    elif damage == "another format":
        manifest.write_text('{"format": "portability-0"}')
    else:
        (copy / portability.TENSORS).write_bytes(b"")
    with pytest.raises(ResultsError, match=str(copy)):
        portability.decode(copy)
    assert portability.main(["decode", str(copy)]) == 2
    assert str(copy) in capsys.readouterr().err


def test_every_scheme_has_a_request() -> None:
    """Every scheme but the one that needs compressai."""
    assert POINTS.keys() == catalog.SCHEMES.keys() - {"compressai", "jxl"}


def test_a_digest_is_of_every_bit_and_of_the_shape() -> None:
    """Negative zero, another shape or type gives another digest."""
    zero = torch.zeros(2, 3)
    digests = {portability.digest(each) for each in (zero, -zero, zero.reshape(3, 2), zero.double())}
    assert len(digests) == 4
    assert portability.digest(zero.T) == portability.digest(torch.zeros(3, 2))
