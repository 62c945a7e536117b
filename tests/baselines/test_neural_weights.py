"""Checkpoints of the neural codecs: full-size and small ones are read from their shapes, foreign ones are refused."""

from collections.abc import Callable
from pathlib import Path

import harness.models.torchvision_ops  # noqa: F401  isort: skip - compressai imports torchvision
import pytest
import torch
from compressai.models import Elic2022Official, ScaleHyperprior
from PIL import Image
from safetensors.torch import load_file, save_file

from baselines.elic import Elic
from baselines.hyperprior import Hyperprior
from baselines.neural_codec import NeuralCodec, NeuralPoint
from baselines.neural_weights import BUNDLED, bundled, fingerprint, load, read
from harness.errors import CheckpointError

State = dict[str, torch.Tensor]
GAUSSIAN = "gaussian_conditional."
TABLES = ("_quantized_cdf", "_offset", "_cdf_length", "scale_table")


def _small(kind: type[NeuralCodec]) -> Path:
    return next(iter(bundled(kind.kind).values()))


@pytest.mark.parametrize("kind", [Hyperprior, Elic])
def test_bundled_models_are_found_by_their_lambda(kind: type[NeuralCodec]) -> None:
    """From the lowest rate to the highest; together with the card they stay below 12 MB."""
    models = bundled(kind.kind)
    assert len(models) >= 3
    assert list(models) == sorted(models)
    for lambda_, path in models.items():
        assert path.name == f"{kind.kind}-{lambda_}.safetensors"
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 12_000_000


def test_an_unknown_lambda_lists_the_known_ones() -> None:
    """A point names what there is."""
    with pytest.raises(CheckpointError, match=f"known: {next(iter(bundled('elic')))}, "):
        Elic(NeuralPoint(weights=0.5))


@pytest.mark.parametrize(
    ("kind", "published", "sizes"),
    [
        (Hyperprior, lambda: ScaleHyperprior(128, 192), {"N": 128, "M": 192}),
        (Elic, Elic2022Official, {"groups": [16, 16, 32, 64, 192]}),
        (Elic, lambda: Elic2022Official(96, 128, groups=[32, 96]), {"groups": [32, 96]}),
    ],
)
def test_channels_are_read_from_the_shapes(
    kind: type[NeuralCodec], published: Callable[[], torch.nn.Module], sizes: dict[str, object]
) -> None:
    """The published sizes and others: the network that is built has every tensor of the state dict, at its shape."""
    state = published().state_dict()
    net = kind.network_of(Path("x"), state)
    assert {name: t.shape for name, t in net.state_dict().items()} == {name: t.shape for name, t in state.items()}
    assert {name: getattr(net, name) for name in sizes} == sizes


@pytest.mark.parametrize("kind", [Hyperprior, Elic])
def test_a_checkpoint_without_tables_gets_them(kind: type[NeuralCodec], tmp_path: Path) -> None:
    """As compressai saves it before update(): a picture still goes through."""
    state = {name: t for name, t in load_file(_small(kind)).items() if not name.endswith(TABLES)}
    path = tmp_path / "mine.safetensors"
    save_file(state, path)
    codec = kind(NeuralPoint(weights=str(path)))
    assert codec.decode(codec.encode(Image.new("RGB", (70, 30), (90, 120, 40)))).size == (70, 30)


def test_a_gaussian_without_tables_shares_those_of_another(tmp_path: Path) -> None:
    """The bundled ELIC keeps them once; with a copy for every group of channels it is the same model."""
    path = _small(Elic)
    state = read(path)
    nets = [Elic.network_of(path, state) for _ in range(2)]
    load(path, nets[0], state)
    whole = {name: tensor.contiguous() for name, tensor in nets[0].state_dict().items()}
    assert len(whole) > len(state)
    load(path, nets[1], whole)
    assert fingerprint(nets[0], 4) == fingerprint(nets[1], 4)


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".pt"])
def test_a_pickle_is_refused_with_the_way_out(suffix: str, tmp_path: Path) -> None:
    """Unread: the file does not even exist."""
    with pytest.raises(CheckpointError, match=r"pickles are not read; convert it .*safetensors\.torch\.save_file"):
        read(tmp_path / f"model{suffix}")


def _broken(state: State, how: str) -> State:
    name = "g_a.0.weight"
    match how:
        case "missing":
            return {key: t for key, t in state.items() if key != "g_s.1.beta"}
        case "unknown":
            return {**state, "g_x.weight": torch.zeros(3)}
        case "shape":
            return {**state, "h_a.2.weight": torch.zeros(7, 32, 5, 5)}
        case "foreign":
            return {"encoder.weight": torch.zeros(3)}
        case "infinite":
            return {**state, name: torch.full_like(state[name], torch.inf)}
        case "falling table":
            return {
                **state,
                "gaussian_conditional._quantized_cdf": state["gaussian_conditional._quantized_cdf"].flip(1),
            }
        case "long table":
            return {**state, "gaussian_conditional._cdf_length": state["gaussian_conditional._cdf_length"] + 9999}
        case "few rows":
            return {**state, "gaussian_conditional._offset": state["gaussian_conditional._offset"][:3]}
        case _:
            raise ValueError(how)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("missing", "Missing key"),
        ("unknown", "Unexpected key"),
        ("shape", "size mismatch for h_a.2.weight"),
        ("foreign", "has no convolution g_a.0.weight"),
        ("infinite", "g_a.0.weight is not finite"),
        ("falling table", "does not rise from 0 to 65536"),
        ("long table", "more than there are"),
        ("few rows", "are not of 30 rows each"),
    ],
)
def test_what_is_not_a_hyperprior_is_refused(how: str, sentence: str, tmp_path: Path) -> None:
    """In one sentence that names the file; a wrong table above all, which would corrupt the coder's memory."""
    path = tmp_path / "mine.safetensors"
    save_file({k: t.contiguous() for k, t in _broken(load_file(_small(Hyperprior)), how).items()}, path)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        Hyperprior(NeuralPoint(weights=str(path)))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_codecs_checkpoint_is_not_the_others() -> None:
    """Both directions."""
    for kind, other in ((Hyperprior, Elic), (Elic, Hyperprior)):
        with pytest.raises(CheckpointError):
            kind(NeuralPoint(weights=str(_small(other))))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 a zip", bytes(100)])
def test_what_is_no_safetensors_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    """Absent, empty, a renamed pickle, and noise."""
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read(path)


def test_a_fingerprint_sees_every_weight() -> None:
    """The last bit of one weight of g_s makes another model."""
    path = _small(Hyperprior)
    nets = []
    for _ in range(2):
        state = read(path)
        nets.append(Hyperprior.network_of(path, state))
        load(path, nets[-1], state)
    assert fingerprint(nets[0], 4) == fingerprint(nets[1], 4)
    nets[1].g_s[6].bias.data[0] = torch.nextafter(nets[1].g_s[6].bias.data[0], torch.tensor(9.0))
    assert fingerprint(nets[0], 4) != fingerprint(nets[1], 4)
