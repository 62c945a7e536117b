"""Entropy coding beside its entropy and beside compressai, and the whole codec beside merging.

coding  92,160 symbols: bytes over the model's entropy, encode and decode times beside compress/decompress
codec   the device's and the server's stage of the whole codec, miniature and full size, by how many models are in use
"""

import numpy as np
import torch

import harness.models.torchvision_ops  # noqa: F401
from benchmarks.timing import interleaved_s, place
from harness.tofc import bitstream, laplacian
from harness.tofc.bitstream import Header, Symbols
from harness.tofc.codec import CodecConfig, TofcCodec
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


def coding() -> None:
    """Compare bytes with the entropy, and times with compressai on the same symbols under its Gaussian."""
    from compressai.entropy_models import GaussianConditional

    rng = np.random.default_rng(0)
    log2_b = rng.uniform(-2.5, 3.0, (N_FEATURES, DIM))
    level_ND = np.rint((log2_b - laplacian.LOG2_B_MIN) * laplacian.LEVELS_PER_OCTAVE).astype(np.uint8)
    y_ND = np.rint(rng.laplace(0, 2**log2_b)).astype(np.int64)
    entropy_bits = laplacian.bits(torch.from_numpy(y_ND).double(), torch.from_numpy(log2_b)).sum().item()
    tables = codec_for(64, 1, features(4, 4, 64, torch.Generator().manual_seed(0))).frozen.tables
    z_NZ = np.zeros((N_FEATURES, tables.n_channels), np.int64)
    symbols = Symbols(np.zeros(N_FEATURES, np.int64), z_NZ, y_ND)
    header = Header(bytes(4), (2, 2), 16)
    stream = bitstream.write(header, tables, symbols, level_ND)

    def decode() -> bitstream.Budget:
        return bitstream.read_y(bitstream.read_side_information(stream, bytes(4), tables), tables, level_ND)[1]

    peer = GaussianConditional(list(np.exp(np.linspace(np.log(0.11), np.log(64), 64))))
    peer.update()
    symbols_1N = torch.from_numpy(y_ND).float().view(1, -1)
    indexes_1N = peer.build_indexes(torch.from_numpy(2**log2_b * 2**0.5).float().view(1, -1))
    strings = peer.compress(symbols_1N, indexes_1N)
    assert torch.equal(peer.decompress(strings, indexes_1N), symbols_1N)
    seconds = interleaved_s(
        {
            "encode": lambda: bitstream.write(header, tables, symbols, level_ND),
            "decode": decode,
            "compress": lambda: peer.compress(symbols_1N, indexes_1N),
            "decompress": lambda: peer.decompress(strings, indexes_1N),
        }
    )
    ours, theirs = seconds["encode"] + seconds["decode"], seconds["compress"] + seconds["decompress"]
    y_bits = decode().y_bits
    print(f"coding: {y_ND.size} symbols, {entropy_bits / 8:.0f} bytes of entropy (Eq. 5 at the true scales)")
    print(f"  y: {y_bits / 8:.0f} bytes, {100 * (y_bits / entropy_bits - 1):+.3f} % over the entropy")
    print(f"  encode {1e3 * seconds['encode']:.2f} ms + decode {1e3 * seconds['decode']:.2f} ms")
    peer_ms = f"{1e3 * seconds['compress']:.2f} + {1e3 * seconds['decompress']:.2f} ms"
    print(f"  compressai {peer_ms}: {theirs / ours:.2f} x ours")


def whole_codec() -> None:
    """Time the codec's stages beside the merging that precedes them, and the part that reads the models' weights.

    What a stage takes at full size is, but for the coder's share, the reading of h_a and h_s, once for each model that
    an image uses; hence the rows with one model beside those with sixteen.
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
                    "device": lambda c=codec, y=y_PCD: c.compress(y),
                    "networks": lambda f=codec.frozen, u=u_ND, z=z_NZ, e=expert_N: (
                        f.analysis(u, e),
                        f.synthesis(z, e),
                    ),
                    "coder": lambda f=codec.frozen, h=header, s=symbols, n=level_ND: bitstream.write(h, f.tables, s, n),
                    "server": lambda c=codec, s=stream: c.decompress(s),
                    "merging": lambda x=x_PVD, n=n_clusters: merge(x, n),
                }
            )
            ms = {key: 1e3 * value for key, value in seconds.items()}
            own = (f"{ms[key]:.2f}" for key in ("device", "networks", "coder", "server", "merging"))
            cells = (name, str(len(expert_N.unique())), *own, f"{ms['device'] / ms['merging']:.2f}")
            print(
                "".join(cell.rjust(width) for cell, width in zip(cells, (13, 13, 12, 17, 8, 12, 13, 17), strict=True))
            )


def main() -> None:
    """Print both parts."""
    torch.set_num_threads(1)
    print(place())
    coding()
    whole_codec()


if __name__ == "__main__":
    main()
