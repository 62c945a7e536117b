"""Streams decoded under other conditions, and damaged ones: counts, not times. Two minutes, or ``--quick``.

portability  requests whose y is decoded under the levels of h_s evaluated one row at a time; all of h_s again in other
             batches, by float64 products (an accelerator's way) as by integer dots, on 1 and 2 threads
fuzz         mutated, truncated and random streams, a third of them under a checksum that was forged to fit
"""

import argparse
import resource
import time
import zlib

import numpy as np
import torch

import harness.models.torchvision_ops  # noqa: F401
from benchmarks.bench_coding import codec_for, features
from harness.errors import BitstreamError
from harness.tofc import bitstream
from harness.tofc.bitstream import Header, Symbols
from harness.tofc.codec import TofcCodec
from harness.tofc.level_order import Levels

Request = tuple[Symbols, Levels]

SIZES = ((64, 5, 4, 0.495), (160, 7, 6, 0.495), (1152, 5, 16, 0.01))
"""D, P, C and share of the requests: miniatures, and LLaVA-OneVision's size."""

FULL = (10_000, 100_000)
QUICK = (200, 2_000)
_BATCH = 50


def portability(n_requests: int) -> None:
    """Count the requests that another evaluation of h_s would have decoded to anything else."""
    for dim, n_patches, n_clusters, share in SIZES:
        generator = torch.Generator().manual_seed(dim)
        codec = codec_for(dim, 16, features(16, n_clusters, dim, generator))
        mismatches, kept = 0, list[Request]()
        number = max(1, round(share * n_requests))
        start = time.perf_counter()
        for request in range(number):
            torch.set_num_threads(1 + request % 2)
            symbols, level_ND = codec.symbols(features(n_patches, n_clusters, dim, generator))
            kept.append((symbols, level_ND))
            torch.set_num_threads(2 - request % 2)
            mismatches += not _decodes_row_by_row(codec, symbols, level_ND, (1, n_patches - 1))
            if len(kept) == _BATCH or request == number - 1:
                mismatches += _differing(codec, kept)
                kept.clear()
        seconds = time.perf_counter() - start
        print(
            f"portability: D = {dim}, {number} requests of {n_patches} x {n_clusters} features in {seconds:.0f} s: ",
            end="",
        )
        print(f"{mismatches} mismatches", flush=True)
    torch.set_num_threads(1)


def _decodes_row_by_row(codec: TofcCodec, symbols: Symbols, level_ND: Levels, grid: tuple[int, int]) -> bool:
    frozen = codec.frozen
    header = Header(frozen.model, grid, len(level_ND) // (grid[0] * grid[1] + 1))
    stream = bitstream.write(header, frozen.tables, symbols, level_ND)
    side = bitstream.read_side_information(stream, frozen.model, frozen.tables)
    expert_N, z_NZ = torch.from_numpy(side.expert_N), torch.from_numpy(side.z_NZ)
    rows = [frozen.synthesis(z_NZ[n : n + 1], expert_N[n : n + 1]) for n in range(len(z_NZ))]
    try:
        y_ND, _ = bitstream.read_y(side, frozen.tables, torch.cat([level for _, level in rows]).numpy())
    except BitstreamError:
        return False
    mu_ND, _ = frozen.synthesis(z_NZ, expert_N)
    same: bool = np.array_equal(y_ND, symbols.y_ND) and torch.equal(torch.cat([mu for mu, _ in rows]), mu_ND)
    return same


def _differing(codec: TofcCodec, kept: list[Request]) -> int:
    """How many of these requests differ when all of h_s is one batch, by dots and by float64 products."""
    layers = codec.frozen.synthesis.layers
    expert_N = torch.from_numpy(np.concatenate([symbols.expert_N for symbols, _ in kept]))
    z_NZ = torch.from_numpy(np.concatenate([symbols.z_NZ for symbols, _ in kept]))
    level_ND = codec.frozen.synthesis(z_NZ, expert_N)[1].numpy()
    differs_N = (level_ND != np.concatenate([level for _, level in kept])).any(1)
    x_NZ = codec.frozen.synthesis.inputs(z_NZ)
    differs_N |= (layers.by_matrix_products(x_NZ, expert_N) != layers(x_NZ, expert_N)).any(1).numpy()
    return int(differs_N.reshape(len(kept), -1).any(1).sum())


def fuzz(n_streams: int) -> None:
    """Damage streams at random and decode them: an error, or what was sent; anything else only where it was forged."""
    rng = np.random.default_rng(3)
    generator = torch.Generator().manual_seed(3)
    codec = codec_for(64, 4, features(16, 2, 64, generator))
    originals = [codec.compress(features(p, c, 64, generator)) for p, c in ((1, 1), (2, 1), (5, 2), (10, 1))]
    decoded = [codec.decompress(stream).y_PCD for stream in originals]
    count = {"refused": 0, "undamaged": 0, "forged": 0, "wrong": 0}
    start, slowest, memory_before = time.perf_counter(), 0.0, _peak_mib()
    for number in range(n_streams):
        original, kind = number % len(originals), number // len(originals) % 3
        stream = damaged(originals[original], kind, rng)
        forged = number % 3 == 0 and len(stream) > 11
        if forged:
            stream[:7] = originals[0][:7]
            if number % 2:
                # A small image of at most 10 patches and 257 features a patch, so that it is decoded and not only
                # refused.
                stream[7:11] = bytes((*rng.integers(0, 4, 2), *rng.integers(0, 2, 2)))
            stream[-4:] = zlib.crc32(stream[:-4]).to_bytes(4, "little")
        began = time.perf_counter()
        try:
            result = codec.decompress(bytes(stream)).y_PCD
        except BitstreamError:
            count["refused"] += 1
        else:
            same = result.shape == decoded[original].shape and torch.equal(result, decoded[original])
            right = forged and bool(result.isfinite().all())
            count["undamaged" if same and stream == originals[original] else "forged" if right else "wrong"] += 1
        slowest = max(slowest, time.perf_counter() - began)
    print(f"fuzz: {n_streams} streams in {time.perf_counter() - start:.0f} s: {count['refused']} refused, ", end="")
    print(f"{count['undamaged']} as they were, {count['forged']} read under a forged checksum, {count['wrong']} wrong")
    print(f"  slowest {1e3 * slowest:.1f} ms, memory {_peak_mib() - memory_before:+.0f} MiB")


def damaged(original: bytes, kind: int, rng: np.random.Generator) -> bytearray:
    """Random bytes instead of a stream, a stream cut short, or one with up to five bytes changed."""
    if kind == 0:
        return bytearray(rng.bytes(int(rng.integers(0, 200))))
    stream = bytearray(original)
    if kind == 1:
        del stream[int(rng.integers(0, len(stream))) :]
    else:
        for position in rng.integers(0, len(stream), int(rng.integers(1, 6))):
            stream[position] ^= int(rng.integers(0, 256))
    return stream


def largest_claims() -> None:
    """Decode forged headers that claim all that the format allows, and all that the limits do, with nothing behind."""
    claims = [(dim, n) for dim in (64, 1152) for n in (bitstream.MAX_FEATURES, bitstream.LIMITS.max_features)]
    for dim, n_features in claims:
        codec = codec_for(dim, 1, features(2, 2, dim, torch.Generator().manual_seed(4)))
        stream = bytearray(codec.compress(torch.zeros(1, 1, dim)))[:11] + b"\x01\x02\x03\x04"
        stream[7:11] = bytes((127, 1)) + (n_features // 128).to_bytes(2, "little")
        stream += zlib.crc32(stream).to_bytes(4, "little")
        began, memory_before, outcome = time.perf_counter(), _peak_mib(), "read"
        try:
            codec.decompress(bytes(stream))
        except BitstreamError:
            outcome = "refused"
        seconds, grown = time.perf_counter() - began, _peak_mib() - memory_before
        print(f"  {len(stream)} bytes that claim {n_features} features of D = {dim}: {outcome} ", end="")
        print(f"after {1e3 * seconds:.0f} ms, memory {grown:+.0f} MiB", flush=True)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run both at the counts of the project's goals, or ``--quick`` at a fiftieth of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK[0]} requests and {QUICK[1]} streams")
    n_requests, n_streams = QUICK if parser.parse_args().quick else FULL
    torch.set_num_threads(1)
    # A process's peak of memory only rises: what needs most comes last.
    fuzz(n_streams)
    largest_claims()
    portability(n_requests)


if __name__ == "__main__":
    main()
