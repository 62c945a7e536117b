"""Checkpoints of the neural codecs: full-size and small ones are read from their shapes, foreign ones are refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from baselines.networks.elic import Elic2022Official
from baselines.networks.hyperprior import ScaleHyperprior
from baselines.networks.network import Network
from baselines.networks.weights import build, fingerprint, load, read
from baselines.neural_codec import BUNDLED, Elic, Hyperprior, NeuralCodec, NeuralPoint, bundled
from harness.errors import CheckpointError

State = dict[str, torch.Tensor]
GAUSSIAN = "gaussian_conditional."
TABLES = ("_quantized_cdf", "_offset", "_cdf_length", "scale_table")


def _small(kind: type[NeuralCodec]) -> Path:
    return next(iter(bundled(kind.kind).values()))


@pytest.mark.parametrize("kind", [Hyperprior, Elic])
def test_bundled_models_are_found_by_their_lambda(kind: type[NeuralCodec]) -> None:
    """From the lowest rate to the highest; together with the card they stay below 24 MB."""
    models = bundled(kind.kind)
    assert len(models) >= 3
    assert list(models) == sorted(models)
    for lambda_, path in models.items():
        assert path.name == f"{kind.kind}-{lambda_}.safetensors"
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 24_000_000


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    """What is measured by a process is of the weights whose digest its run has."""
    path = tmp_path / "mine.safetensors"
    lower, higher, *_ = bundled("hyperprior").values()
    models = []
    for source in (lower, higher):
        path.write_bytes(source.read_bytes())
        models.append(Hyperprior(NeuralPoint(weights=str(path))).coder.model)
    assert models[0] != models[1]


def test_an_unknown_lambda_lists_the_known_ones() -> None:
    """The error lists the bundled ones."""
    with pytest.raises(CheckpointError, match=f"known: {next(iter(bundled('elic')))}, "):
        Elic(NeuralPoint(weights=0.5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "published"),
    [
        ("hyperprior", lambda: ScaleHyperprior(128, 192)),
        ("elic", Elic2022Official),
        ("elic", lambda: Elic2022Official(96, 128, (32, 96))),
        ("elic", lambda: Elic2022Official(32, 64, (8, 24, 32), [(40, 36), (44, 48)])),
    ],
)
def test_channels_are_read_from_the_shapes(codec: str, published: Callable[[], Network]) -> None:
    """The published sizes and others, contexts that differ by group too: every tensor is there, at its shape."""
    state = published().state_dict()
    net = build(Path("x"), codec, state)
    assert {name: t.shape for name, t in net.state_dict().items()} == {name: t.shape for name, t in state.items()}


def test_a_claim_of_terabytes_is_refused_before_allocation(tmp_path: Path) -> None:
    """Two tensors of a few megabytes, whose network would have a hundred thousand channels throughout."""
    state = {"g_a.0.weight": torch.zeros(100_000, 3, 5, 5), "g_a.6.weight": torch.zeros(100_000, 1, 5, 5)}
    path = tmp_path / "huge.safetensors"
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"huge\.safetensors: (Missing key|size mismatch)"):
        Hyperprior(NeuralPoint(weights=str(path)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Hyperprior, Elic])
def test_a_checkpoint_without_tables_gets_them(kind: type[NeuralCodec], tmp_path: Path) -> None:
    """As compressai saves it before update(): a picture still goes through."""
    state = {name: t for name, t in load_file(_small(kind)).items() if not name.endswith(TABLES)}
    path = tmp_path / "mine.safetensors"
    save_file(state, path)
    codec = kind(NeuralPoint(weights=str(path)))
    assert codec.decode(codec.encode(Image.new("RGB", (70, 30), (90, 120, 40)))).size == (70, 30)


@pytest.mark.slow
def test_a_gaussian_without_tables_shares_those_of_another(tmp_path: Path) -> None:
    """The bundled ELIC stores them once; with a copy for every group of channels it is the same model."""
    path = _small(Elic)
    state = read(path)
    nets = [build(path, "elic", state) for _ in range(2)]
    load(path, nets[0], state)
    whole = {name: tensor.contiguous() for name, tensor in nets[0].state_dict().items()}
    assert len(whole) > len(state)
    load(path, nets[1], whole)
    assert fingerprint(nets[0].state_dict(), 4) == fingerprint(nets[1].state_dict(), 4)


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".pt"])
def test_a_pickle_is_refused_with_the_command_that_converts_it(suffix: str, tmp_path: Path) -> None:
    """Unread: the file does not even exist."""
    with pytest.raises(CheckpointError, match=r"pickles are not read.* harness weights convert .* model\.safetensors"):
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
        case "falling scales":
            return {**state, "gaussian_conditional.scale_table": state["gaussian_conditional.scale_table"].flip(0)}
        case "wide density":
            quantiles = state["entropy_bottleneck.quantiles"].float() * 1e7
            return {k: t for k, t in state.items() if not k.endswith(TABLES)} | {
                "entropy_bottleneck.quantiles": quantiles
            }
        case "few rows":
            return {**state, "gaussian_conditional._offset": state["gaussian_conditional._offset"][:3]}
        case _:
            raise ValueError(how)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("missing", "Missing key"),
        ("unknown", "Unexpected key"),
        ("shape", "size mismatch for h_a.2.weight"),
        ("foreign", "has no convolution g_a.0.weight; it belongs to another model"),
        ("infinite", "g_a.0.weight is not finite"),
        ("falling table", "does not rise from 0 to 65536"),
        ("long table", "more than there are"),
        ("few rows", "are not of 30 rows each"),
        ("falling scales", "scales are not above 0 and rising"),
        ("wide density", "is .* wide; no table holds"),
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
    """Both directions; the sentence says what the file is."""
    for kind, other, what in ((Hyperprior, Elic, "an ELIC"), (Elic, Hyperprior, "bmshj2018-hyperprior")):
        with pytest.raises(CheckpointError, match=f"its keys are those of {what}"):
            kind(NeuralPoint(weights=str(_small(other))))


OLD_KEYS = {
    "1.0": {"matrices.": "_matrices.", "biases.": "_biases.", "factors.": "_factors."},
    "1.1": {"matrices.": "_matrix", "biases.": "_bias", "factors.": "_factor"},
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", OLD_KEYS)
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("kind", [Hyperprior, Elic])
def test_older_layouts_are_the_same_model(kind: type[NeuralCodec], wrapper: str, layout: str, tmp_path: Path) -> None:
    """CompressAI's names of an entropy bottleneck's parameters in 1.0 and from 1.1 to 1.2.5, bare and wrapped."""
    newest, state = read(_small(kind)), {}
    for name, tensor in load_file(_small(kind)).items():
        for new, old in OLD_KEYS[layout].items():
            name = name.replace(f"entropy_bottleneck.{new}", f"entropy_bottleneck.{old}")
        state[wrapper + name] = tensor
    assert not set(state) & set(newest) or not wrapper
    save_file(state, path := tmp_path / "old.safetensors")
    found = read(path)
    assert found.keys() == newest.keys()
    assert all(torch.equal(found[name], newest[name]) for name in newest)


def test_a_key_in_two_layouts_is_refused(tmp_path: Path) -> None:
    """One of them would be dropped silently."""
    state = {"entropy_bottleneck.matrices.0": torch.zeros(1), "entropy_bottleneck._matrix0": torch.ones(1)}
    save_file(state, path := tmp_path / "both.safetensors")
    with pytest.raises(CheckpointError, match=r"holds entropy_bottleneck\.matrices\.0 twice"):
        read(path)


def test_another_code_bases_elic_is_recognised(tmp_path: Path) -> None:
    """Its context model has other parts than CompressAI's, so renaming is not enough."""
    state = {"g_a.0.weight": torch.zeros(192, 3, 5, 5), "ParamAggregation.0.0.weight": torch.zeros(640, 672, 1, 1)}
    save_file(state, path := tmp_path / "elic.safetensors")
    with pytest.raises(CheckpointError, match="those of the ELIC of another code base than CompressAI"):
        Elic(NeuralPoint(weights=str(path)))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 a zip", b"\x80\x02}q.", bytes(100)])
def test_what_is_no_safetensors_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    """Absent, empty, renamed pickles, and noise."""
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
        nets.append(build(path, "hyperprior", state))
        load(path, nets[-1], state)
    assert fingerprint(nets[0].state_dict(), 4) == fingerprint(nets[1].state_dict(), 4)
    bias_C = nets[1].get_parameter("g_s.6.bias").data
    bias_C[0] = torch.nextafter(bias_C[0], torch.tensor(9.0))
    assert fingerprint(nets[0].state_dict(), 4) != fingerprint(nets[1].state_dict(), 4)
