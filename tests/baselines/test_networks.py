"""The networks against compressai's classes: state dicts, draws, gradients, tables, strings and pictures are equal."""

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines.networks.elic import Elic2022Official
from baselines.networks.entropy_models import EntropyBottleneck, GaussianConditional
from baselines.networks.hyperprior import ScaleHyperprior
from baselines.networks.network import Network
from baselines.networks.weights import load, make_ready, ready
from baselines.neural_codec import bundled
from baselines.rans import Rans
from harness.data.drawing.seeded_random import SeededRandom
from recipes.pictures import collage

GROUPS = (4, 4, 16)
OURS: dict[str, Callable[[], Network]] = {
    "hyperprior": lambda: ScaleHyperprior(16, 24),
    "elic": lambda: Elic2022Official(16, 24, GROUPS),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def peers(compressai: ModuleType) -> dict[str, Callable[..., Any]]:
    """Compressai's class of each network, by default of the same sizes."""
    from compressai.latent_codecs import CheckerboardLatentCodec
    from compressai.models import Elic2022Official as TheirElic
    from compressai.models import ScaleHyperprior as TheirHyperprior

    def elic(N: int = 16, M: int = 24, groups: tuple[int, ...] = GROUPS) -> Any:
        net = TheirElic(N, M, groups=list(groups))
        for module in net.modules():
            if isinstance(module, CheckerboardLatentCodec):
                module.forward_method = "twopass_faster"
        return net

    return {"hyperprior": lambda N=16, M=24: TheirHyperprior(N, M), "elic": elic}


@functools.cache
def picture(height: int = 64, width: int = 128) -> Tensor:
    """A collage as x_13HW."""
    pixels = torch.from_numpy(collage(SeededRandom("networks", 0)).copy())
    return pixels[:height, :width].permute(2, 0, 1)[None].float() / 255


def lively(net: Any) -> Any:
    """The same network with y of many steps, so that strings are long and tables various."""
    with torch.no_grad():
        for parameter in net.g_a[-1].parameters() if hasattr(net, "h_a") else net.g_a[13].parameters():
            parameter.mul_(200)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("codec", OURS)
def test_the_same_seed_draws_the_same_network(codec: str, peers: dict[str, Callable[..., Any]]) -> None:
    """Every key, shape, type and value: a training from a seed starts from the same weights."""
    torch.manual_seed(3)
    ours = OURS[codec]().state_dict()
    torch.manual_seed(3)
    theirs = peers[codec]().state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("codec", OURS)
def test_gradients_are_compressais(codec: str, training: bool, peers: dict[str, Callable[..., Any]]) -> None:
    """To the bit, pictures and likelihoods as well: a training step leads to the same weights."""
    torch.manual_seed(3)
    ours, theirs = OURS[codec](), peers[codec]()
    theirs.load_state_dict(ours.state_dict())
    outs = []
    for net in (ours, theirs):
        net.train(training)
        torch.manual_seed(5)
        outs.append(out := net(picture()))
        loss = out["x_hat"].square().sum() - sum(value.log2().sum() for value in out["likelihoods"].values())
        loss.backward()
    assert torch.equal(outs[0]["x_hat"], outs[1]["x_hat"])
    for name in ("y", "z"):
        assert torch.equal(outs[0]["likelihoods"][name], outs[1]["likelihoods"][name])
    for (name, mine), (_, peer) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert (mine.grad is None) == (peer.grad is None), name
        assert mine.grad is None or torch.equal(mine.grad, peer.grad), name


def _both(codec: str, peers: dict[str, Callable[..., Any]]) -> tuple[Network, Any]:
    torch.manual_seed(3)
    ours, theirs = lively(OURS[codec]()), peers[codec]()
    theirs.load_state_dict(ours.state_dict())
    make_ready("ours", ours)
    theirs.requires_grad_(False).eval().update()
    return ours, theirs


@pytest.mark.slow
@pytest.mark.parametrize("codec", OURS)
def test_quantiles_and_tables_are_compressais(codec: str, peers: dict[str, Callable[..., Any]]) -> None:
    """Of new weights, and after the medians have followed other densities."""
    ours, theirs = _both(codec, peers)
    from compressai.entropy_models import EntropyBottleneck as Theirs

    for search in (False, True):
        if search:
            (mine,) = (module for module in ours.modules() if isinstance(module, EntropyBottleneck))
            (peer,) = (module for module in theirs.modules() if isinstance(module, Theirs))
            for layer in range(5):
                mine.matrices[layer].add_(0.3 * torch.randn(mine.matrices[layer].shape))
                mine.biases[layer].add_(torch.randn(mine.biases[layer].shape))
            peer.load_state_dict(mine.state_dict())
            mine.update_quantiles()
            peer._update_quantiles()
            mine.update()
            peer.update(force=True)
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor), name


@pytest.mark.slow
@pytest.mark.parametrize("codec", OURS)
def test_strings_and_pictures_are_compressais(codec: str, peers: dict[str, Callable[..., Any]]) -> None:
    """Both write the same strings, and each decodes the other's to the same picture, to the bit."""
    ours, theirs = _both(codec, peers)
    height, width = picture().shape[2:]
    with torch.inference_mode():
        mine = ours.compress(picture())
        out = theirs.compress(picture())
        assert [[string] for string in mine] == out["strings"]
        assert max(map(len, mine)) > 200
        decoded = theirs.decompress([[string] for string in mine], out["shape"])["x_hat"]
        assert torch.equal(ours.decompress(mine, height, width), decoded)


@pytest.mark.slow
@pytest.mark.parametrize("codec", OURS)
def test_the_bundled_weights_are_compressais_too(codec: str, peers: dict[str, Callable[..., Any]]) -> None:
    """A class of compressai's that has them writes the same strings as ours, before either is made exact."""
    (path, *_) = bundled(codec).values()
    ours = ready(codec, str(path))
    n, m = ours.sizes(ours.state_dict())[:2]
    if isinstance(ours, Elic2022Official):
        theirs = peers[codec](n, m, tuple(ours.groups))
        context = theirs.latent_codec["y"].channel_context
        for name, network in ours.latent_codec.y.channel_context.items():
            context[name] = network
    else:
        theirs = peers[codec](n, m)
    load(path, theirs, ours.state_dict())
    with torch.inference_mode():
        assert [[string] for string in ours.compress(picture())] == theirs.compress(picture())["strings"]


@pytest.mark.slow
@pytest.mark.parametrize("codec", OURS)
def test_scales_choose_the_narrowest_table_that_is_as_wide(codec: str, peers: dict[str, Callable[..., Any]]) -> None:
    """On every scale of the table, beside it, below the least, above the most, and where there is no number."""
    ours, theirs = _both(codec, peers)
    mine = next(module for module in ours.modules() if isinstance(module, GaussianConditional))
    peer: Any = next(module for module in theirs.modules() if hasattr(module, "scale_table"))
    at = mine.scale_table
    scales = torch.cat((at, at.nextafter(torch.tensor(0.0)), at.nextafter(torch.tensor(1e9)), torch.tensor([0, -1.0])))
    scales = torch.cat((scales, torch.tensor([1e9, torch.nan])))
    assert torch.equal(mine.index(scales), peer.build_indexes(scales))


@pytest.mark.slow
@pytest.mark.parametrize("codec", OURS)
def test_the_smallest_grid_is_coded(codec: str) -> None:
    """One position of z and sixteen of y: ELIC's strings then have eight symbols a channel, and z's one."""
    net = ready(codec, next(iter(bundled(codec))))
    with torch.inference_mode():
        strings = net.compress(picture(64, 64))
        assert net.decompress(strings, 64, 64).shape == (1, 3, 64, 64)
    assert len(strings) == net.n_strings == len(net.parts(1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("codec", OURS)
def test_every_string_has_its_entropy_model_and_count(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A string's length is checked against the model that decodes it."""
    net = ready(codec, next(iter(bundled(codec))))
    met: list[tuple[Rans, int]] = []
    decode = Rans.decode

    def counting(coder: Rans, string: bytes, index: Any) -> Any:
        met.append((coder, index.size))
        return decode(coder, string, index)

    monkeypatch.setattr(Rans, "decode", counting)
    with torch.inference_mode():
        net.decompress(net.compress(picture()), 64, 128)
    *y, z = [(model.coder, n_symbols) for model, n_symbols in net.parts(1, 2)]
    assert met == [z, *y]
