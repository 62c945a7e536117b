"""Entropy coding beside its entropy and beside compressai; portability and damage at full count.

coding       92,160 symbols: bytes over the model's entropy, encode and decode times beside compress/decompress
codec        the device's and the server's stage of the whole codec, miniature and full size
portability  10,000 requests decoded again with h_s row by row, in other batches, on 1 and 2 threads
fuzz         100,000 mutated, truncated and random streams
"""

import argparse
import resource
import time
import zlib

import numpy as np
import torch

import harness.backbones.torchvision_ops  # noqa: F401
from benchmarks.bench_merging import interleaved_s
from harness.errors import BitstreamError
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
    """Time the codec's stages beside the merging that precedes them."""
    generator = torch.Generator().manual_seed(1)
    print("codec:  size       device ms   server ms   merging ms   device/merging")
    for name, dim, n_features, n_clusters in (("miniature", 128, 144, 4), ("full", 1152, 729, 16)):
        y_PCD = features(5, n_clusters, dim, generator)
        x_PVD = torch.randn(5, n_features, dim, generator=generator)
        codec = codec_for(dim, 16, y_PCD)
        stream = codec.compress(y_PCD)
        seconds = interleaved_s(
            {
                "device": lambda c=codec, y=y_PCD: c.compress(y),
                "server": lambda c=codec, s=stream: c.decompress(s),
                "merging": lambda x=x_PVD, n=n_clusters: merge(x, n),
            }
        )
        device, server, merging = (1e3 * seconds[key] for key in ("device", "server", "merging"))
        print(f"        {name:<10}{device:>10.2f}{server:>12.2f}{merging:>13.2f}{device / merging:>17.2f}")


def portability(n_requests: int) -> None:
    """Decode requests whose levels come from h_s one row at a time, in another batch, on one thread and on two."""
    generator = torch.Generator().manual_seed(2)
    codec = codec_for(128, 16, features(64, 4, 128, generator))
    mismatches = 0
    batch: list[tuple[torch.Tensor, torch.Tensor, np.ndarray]] = []
    for request in range(n_requests):
        torch.set_num_threads(1 + request % 2)
        y_PCD = features(5, 4, 128, generator)
        symbols, level_ND = codec.symbols(y_PCD)
        stream = bitstream.write(Header(codec.frozen.model, (2, 2), 4), codec.frozen.tables, symbols, level_ND)
        torch.set_num_threads(2 - request % 2)
        side = bitstream.read_side_information(stream, codec.frozen.model, codec.frozen.tables)
        expert_N, z_NZ = torch.from_numpy(side.expert_N), torch.from_numpy(side.z_NZ)
        rows = [codec.frozen.synthesise(expert_N[n : n + 1], z_NZ[n : n + 1])[1] for n in range(len(z_NZ))]
        decoded, _ = bitstream.read_y(side, codec.frozen.tables, torch.cat(rows).numpy())
        mismatches += not np.array_equal(decoded, symbols.y_ND)
        batch.append((expert_N, z_NZ, level_ND))
        if len(batch) == 250:
            together = codec.frozen.synthesise(torch.cat([b[0] for b in batch]), torch.cat([b[1] for b in batch]))[1]
            expected = np.concatenate([b[2] for b in batch])
            mismatches += int((together.numpy() != expected).any(1).sum())
            batch.clear()
    torch.set_num_threads(1)
    print(f"portability: {n_requests} requests, row by row and 250 at once, 1 and 2 threads: {mismatches} mismatches")


def fuzz(n_streams: int) -> None:
    """Damage streams at random; a third of them get a valid checksum afterwards, as a hostile sender would."""
    rng = np.random.default_rng(3)
    generator = torch.Generator().manual_seed(3)
    codec = codec_for(64, 4, features(16, 2, 64, generator))
    whole = [codec.compress(features(p, c, 64, generator)) for p, c in ((1, 1), (2, 1), (5, 2), (10, 1))]
    refused = decoded = 0
    start, slowest = time.perf_counter(), 0.0
    memory_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(n_streams):
        stream = bytearray(whole[number % len(whole)])
        damage = number // len(whole) % 4
        if damage == 0:
            stream = bytearray(rng.bytes(int(rng.integers(0, 200))))
        elif damage == 1:
            del stream[int(rng.integers(0, len(stream))) :]
        else:
            for position in rng.integers(0, len(stream), int(rng.integers(1, 6))):
                stream[position] ^= int(rng.integers(1, 256))
        if number % 3 == 0 and len(stream) > 4:
            stream[:7] = whole[0][:7]
            stream[-4:] = zlib.crc32(stream[:-4]).to_bytes(4, "little")
        began = time.perf_counter()
        try:
            result = codec.decompress(bytes(stream))
        except BitstreamError:
            refused += 1
        else:
            decoded += 1
            assert number % 3 == 0
            assert result.y_PCD.isfinite().all()
        slowest = max(slowest, time.perf_counter() - began)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_before) / 1024
    print(f"fuzz: {n_streams} streams in {time.perf_counter() - start:.0f} s: {refused} refused, {decoded} decoded")
    print(f"  all of those under a forged checksum; slowest {1e3 * slowest:.0f} ms, memory +{grown:.0f} MiB")


def main() -> None:
    """Run all four parts; ``--requests`` and ``--streams`` shrink the last two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=100_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    coding()
    whole_codec()
    portability(arguments.requests)
    fuzz(arguments.streams)


if __name__ == "__main__":
    main()
