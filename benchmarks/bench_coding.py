"""Entropy coding beside its entropy, constriction and compressai, and the whole codec beside merging.

coding  92,160 symbols: bytes over their information; encode, decode and setting up the tables beside the peers that are
        installed, the coder alone and with what leads to and from it
codec   the device's and the server's stage of the whole codec, miniature and full size, by the number of models used
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import harness.models.torchvision_ops  # noqa: F401
from benchmarks.timing import interleaved_s, place
from harness.tofc import bitstream, laplacian, level_order, rans
from harness.tofc.codec import CodecConfig, TofcCodec
from harness.tofc.level_order import Indices, Ints, Levels
from harness.tofc.merging import merge

N_FEATURES, DIM = 80, 1152


def features(n_patches: int, n_clusters: int, dim: int, generator: torch.Generator) -> torch.Tensor:
    """Draw Laplacian features whose channels and patches differ in spread, as merged features do."""
    spread = torch.rand(n_patches, 1, dim, generator=generator) * 3 + 0.1
    uniform = torch.rand(n_patches, n_clusters, dim, generator=generator) - 0.5
    return -spread * uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.4999))


def codec_for(dim: int, n_experts: int, y_PCD: torch.Tensor) -> TofcCodec:
    """Build a codec with spread-out scales, its step fitted and its tables frozen."""
    torch.manual_seed(0)
    codec = TofcCodec(CodecConfig(dim=dim, n_experts=n_experts))
    with torch.no_grad():
        codec.models.h_s[-1].weight_EOI.mul_(8)  # type: ignore[operator]
    codec.fit_scale(y_PCD)
    codec.freeze(y_PCD)
    return codec.eval()


class Peers:
    """Calls of the same kind to our coder and to the peers that are installed, by the peer's name."""

    def __init__(self) -> None:
        self.calls: dict[str, dict[str, Callable[[], object]]] = {"set-up": {}, "encode": {}, "decode": {}}

    def add(self, name: str, **calls: Callable[[], object]) -> None:
        """Add one coder's calls."""
        for kind, call in calls.items():
            self.calls[kind.replace("_", "-")][name] = call

    def report(self) -> None:
        """Time all in turn, and print each beside ours."""
        everything = {(kind, name): call for kind, named in self.calls.items() for name, call in named.items()}
        seconds = interleaved_s(everything)
        for name in self.calls["encode"]:
            ms = {kind: 1e3 * seconds[kind, name] for kind in self.calls}
            ours = {kind: 1e3 * seconds[kind, next(iter(self.calls[kind]))] for kind in self.calls}
            both = (ms["encode"] + ms["decode"]) / (ours["encode"] + ours["decode"])
            ratios = f"{ms['encode'] / ours['encode']:.2f}, {ms['decode'] / ours['decode']:.2f}, {both:.2f}"
            print(f"  {name:34}{ms['encode']:8.2f}{ms['decode']:8.2f}{ms['set-up']:10.2f}   {ratios}")


def coding() -> None:
    """Time the coder alone and with its sorting beside its peers, on the same symbols, and count bytes."""
    rng = np.random.default_rng(0)
    log2_b = rng.uniform(-2.5, 3.0, (N_FEATURES, DIM))
    level_ND = np.rint((log2_b - laplacian.LOG2_B_MIN) * laplacian.LEVELS_PER_OCTAVE).astype(np.uint8)
    y_ND = np.rint(rng.laplace(0, 2**log2_b)).astype(np.int64)
    level_M, y_M = level_ND.ravel(), y_ND.ravel()
    counts = [laplacian.table(level) for level in range(laplacian.LEVELS)]
    reach_L = np.array([len(table) // 2 - 1 for table in counts])
    index_M, start_L, escaped = level_order.to_runs(y_M, level_M, reach_L)
    table_R = np.arange(laplacian.LEVELS)

    tables = rans.Tables(counts)

    def push(index_M: Indices) -> bytes:
        encoder = rans.Encoder()
        encoder.push(tables, index_M, table_R, start_L)
        return encoder.to_bytes()

    def pop() -> Indices:
        return rans.Decoder(body).pop(tables, table_R, start_L)

    body = push(index_M)
    assert np.array_equal(pop(), index_M)
    alone, ordered = Peers(), Peers()
    set_up = {"set_up": lambda: rans.Tables(counts)}
    alone.add("ours", **set_up, encode=lambda: push(index_M), decode=pop)
    ordered.add(
        "ours",
        **set_up,
        encode=lambda: push(level_order.to_runs(y_M, level_M, reach_L)[0]),
        decode=lambda: level_order.from_runs(pop(), level_M, reach_L, level_order.starts(level_M, len(reach_L))),
    )
    add_constriction(alone, ordered, counts, (y_M, level_M, reach_L), (index_M, start_L), body)
    add_compressai(alone, ordered, y_ND, log2_b)

    bits = sum(-np.log2(counts[level][index_M[start_L[level] : start_L[level + 1]]] / 2**24).sum() for level in table_R)
    entropy_bits = laplacian.bits(torch.from_numpy(y_ND).double(), torch.from_numpy(log2_b)).sum().item()
    print(f"coding: {y_ND.size} symbols, {len(escaped)} escapes, {len(body)} bytes")
    print(f"  {100 * (8 * len(body) / bits - 1):+.4f} % over the information under the tables that a model ships")
    print(f"  {100 * (8 * len(body) / entropy_bits - 1):+.4f} % over Eq. 5 at the true scales, each a level's rounded")
    columns = f"{'encode':>8}{'decode':>8}{'set-up':>10}   times ours: encode, decode, both"
    print(f"  {'the coder alone, ms':34}{columns}")
    alone.report()
    print(f"  {'with the sorting by level, ms':34}{columns}")
    ordered.report()


def add_constriction(
    alone: Peers,
    ordered: Peers,
    counts: list[Ints],
    elements: tuple[Ints, Levels, Ints],
    runs: tuple[Indices, Ints],
    body: bytes,
) -> None:
    """The peer that writes the same words as our coder."""
    try:
        from constriction import stream
    except ImportError:
        print("  constriction is not installed")
        return
    (y_M, level_M, reach_L), (index_M, start_L) = elements, runs

    def set_up() -> list[Any]:
        return [stream.model.Categorical(table / 2**24, perfect=False) for table in counts]

    models = set_up()

    def encode(index_M: Indices) -> NDArray[np.uint32]:
        coder = stream.stack.AnsCoder()
        for level in np.flatnonzero(np.diff(start_L))[::-1]:
            coder.encode_reverse(index_M[start_L[level] : start_L[level + 1]], models[level])
        words: NDArray[np.uint32] = coder.get_compressed()
        return words

    words = encode(index_M)
    assert words.tobytes().rstrip(b"\0") == body

    def decode() -> Indices:
        coder, index_M = stream.stack.AnsCoder(words), np.empty(len(y_M), np.int32)
        for level in np.flatnonzero(np.diff(start_L)):
            size = int(start_L[level + 1] - start_L[level])
            index_M[start_L[level] : start_L[level + 1]] = coder.decode(models[level], size)
        return index_M

    alone.add("constriction, the same words", set_up=set_up, encode=lambda: encode(index_M), decode=decode)
    ordered.add(
        "constriction, the same words",
        set_up=set_up,
        encode=lambda: encode(level_order.to_runs(y_M, level_M, reach_L)[0]),
        decode=lambda: level_order.from_runs(decode(), level_M, reach_L, level_order.starts(level_M, len(reach_L))),
    )


def add_compressai(alone: Peers, ordered: Peers, y_ND: Ints, log2_b: NDArray[np.float64]) -> None:
    """The coder of compressai: with its lists ready, and through compress and decompress, which take tensors."""
    try:
        from compressai.ans import RansDecoder, RansEncoder
        from compressai.entropy_models import GaussianConditional
    except ImportError:
        print("  compressai is not installed")
        return

    def set_up() -> Any:
        model = GaussianConditional(list(np.exp(np.linspace(np.log(0.11), np.log(64), 64))))
        model.update()
        return model

    peer = set_up()
    symbols_1N = torch.from_numpy(y_ND).float().view(1, -1)
    indexes_1N = peer.build_indexes(torch.from_numpy(2**log2_b * 2**0.5).float().view(1, -1))
    strings = peer.compress(symbols_1N, indexes_1N)
    assert torch.equal(peer.decompress(strings, indexes_1N), symbols_1N)
    lists = [part.reshape(-1).int().tolist() for part in (symbols_1N, indexes_1N)]
    tables = [part.tolist() for part in (peer._quantized_cdf, peer._cdf_length.int(), peer._offset.int())]
    encoder, decoder = RansEncoder(), RansDecoder()
    assert encoder.encode_with_indexes(*lists, *tables) == strings[0]
    alone.add(
        "compressai under its Gaussian",
        set_up=set_up,
        encode=lambda: encoder.encode_with_indexes(*lists, *tables),
        decode=lambda: decoder.decode_with_indexes(strings[0], lists[1], *tables),
    )
    ordered.add(
        "compressai, from and to tensors",
        set_up=set_up,
        encode=lambda: peer.compress(symbols_1N, indexes_1N),
        decode=lambda: peer.decompress(strings, indexes_1N),
    )


def whole_codec() -> None:
    """Time the codec's stages beside the merging that precedes them, and the part that reads the models' weights.

    At full size a stage's time, apart from the coder's share, is spent reading h_a and h_s, once for each model that an
    image uses; hence the rows with one model beside those with sixteen.
    """
    generator = torch.Generator().manual_seed(1)
    print("codec:  size    models used   device ms   of it h_a, h_s   coder   server ms   merging ms   device/merging")
    for name, dim, n_patches, n_features, n_clusters in (("miniature", 160, 7, 144, 6), ("full", 1152, 5, 729, 16)):
        y_PCD = features(n_patches, n_clusters, dim, generator)
        x_PVD = torch.randn(n_patches, n_features, dim, generator=generator)
        for n_experts in (1, 16):
            codec = codec_for(dim, n_experts, y_PCD)
            stream = codec.compress(y_PCD)
            header = bitstream.read_header(stream)
            symbols, level_ND = codec.symbols(y_PCD)
            expert_N, z_NZ = torch.from_numpy(symbols.expert_N), torch.from_numpy(symbols.z_NZ)
            u_ND = torch.randn(y_PCD.flatten(0, 1).shape, generator=generator)
            seconds = interleaved_s(
                {
                    "device": functools.partial(codec.compress, y_PCD),
                    "networks": functools.partial(_networks, codec, u_ND, z_NZ, expert_N),
                    "coder": functools.partial(bitstream.write, header, codec.frozen.tables, symbols, level_ND),
                    "server": functools.partial(codec.decompress, stream),
                    "merging": functools.partial(merge, x_PVD, n_clusters),
                }
            )
            ms = {key: 1e3 * value for key, value in seconds.items()}
            own = (f"{ms[key]:.2f}" for key in ("device", "networks", "coder", "server", "merging"))
            cells = (name, str(len(np.unique(symbols.expert_N))), *own, f"{ms['device'] / ms['merging']:.2f}")
            print(
                "".join(cell.rjust(width) for cell, width in zip(cells, (13, 13, 12, 17, 8, 12, 13, 17), strict=True))
            )


def _networks(codec: TofcCodec, u_ND: torch.Tensor, z_NZ: torch.Tensor, expert_N: torch.Tensor) -> object:
    return codec.frozen.analysis(u_ND, expert_N), codec.frozen.synthesis(z_NZ, expert_N)


def main() -> None:
    """Print both parts."""
    torch.set_num_threads(1)
    print(place())
    coding()
    whole_codec()


if __name__ == "__main__":
    main()
