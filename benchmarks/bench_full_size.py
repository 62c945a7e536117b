"""A model at its full size answers one StreetsQA question through TOFC's whole path, on a CPU.

    python -m benchmarks.bench_full_size                 LLaVA-OneVision-0.5B: 729 features of 1152 a patch
    python -m benchmarks.bench_full_size internvl3-1b    another of the catalog's

Random weights, in bfloat16: the answer is noise, the work and the memory are real. Features are merged to n_c = 16,
coded by sixteen entropy models of their width, sent as bytes, decoded, projected, answered. Needs 4 GB of memory for
the first and no network.
"""

import resource
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from harness import catalog
from harness.data.questions import samples
from harness.data.streetsqa import book
from harness.profiling.clock import StageClock
from harness.profiling.resources import weights_bytes
from harness.schemes.envelope import receive, send
from harness.schemes.features import FeatureDevice, FeatureServer, limits_of
from harness.schemes.tofc import Tofc, TofcPoint
from harness.tofc.codec import CodecConfig, TofcCodec
from harness.tofc.merging import Merging

NAME = "llava-onevision-0.5b"
CLUSTERS = 16
EXPERTS = 16
LIMIT_GIB = 10


def untrained(dim: int) -> TofcCodec:
    """A codec of a width, its scale fitted to noise: its rate means nothing, its work and its losslessness do."""
    torch.manual_seed(0)
    # At D = 4096 the widths that are the default, (D, D / 2), would make a codec larger than the model.
    hidden = (1152, 576) if dim > 1152 else ()
    codec = TofcCodec(CodecConfig(dim=dim, n_experts=EXPERTS, hidden=hidden)).eval()
    noise_PCD = torch.randn(4, 64, dim)
    codec.fit_scale(noise_PCD)
    codec.freeze(noise_PCD)
    return codec


def resident_gib() -> float:
    """The current memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**30


def peak_gib() -> float:
    """The peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(name: str = NAME) -> None:
    """Print what was built, a row a stage, and the peak of memory; fails above the limit."""
    load = catalog.load("backbone", name, catalog.BACKBONES)
    before_gib = resident_gib()
    start = time.perf_counter()
    models = load(name, weights="random", dtype="bfloat16")
    vision, language = models.vision(), models.language()
    built_s = time.perf_counter() - start
    held_gib = weights_bytes([vision, language]) / 2**30
    grown_gib = peak_gib() - before_gib
    codec, point = untrained(vision.feature_dim), TofcPoint(codec="untrained", n_c=CLUSTERS)
    coded_m = sum(p.numel() for p in codec.parameters()) / 1e6
    device = FeatureDevice(Tofc.kind, vision, Merging(), codec, point)
    server = FeatureServer(language, codec, limits_of(models, language, point))
    (sample, *_) = samples(book("test", 0)[:1], paired=False)
    for _ in range(2):
        # The first request compiles the merging, and is dropped.
        clocks = {"device": StageClock(), "server": StageClock()}
        payload = send(device, sample, clocks["device"])
        assert isinstance(payload, bytes)
        n_bytes = len(payload)
        (answer,) = receive(server, payload, [sample.question], clocks["server"], kind=Tofc.kind)

    table = Table(title=f"{name}, random weights, bfloat16, {torch.get_num_threads()} thread(s)")
    for heading in ("side", "stage", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for side, clock in clocks.items():
        for stage, seconds in clock.seconds.items():
            table.add_row(side, stage, f"{seconds:.3f}")
    console = Console()
    console.print(
        f"weights: {held_gib:.2f} GiB, built in {built_s:.1f} s; building took {grown_gib:.2f} GiB at its peak"
    )
    console.print(f"codec: {EXPERTS} entropy models, {coded_m:.1f} million parameters")
    console.print(table)
    width, height = sample.image().size
    console.print(
        f"{width} x {height} picture, {answer.visual_tokens} visual tokens, {n_bytes} payload bytes; "
        f"peak memory {peak_gib():.2f} GiB"
    )
    assert grown_gib < 1.25 * held_gib, "random weights were in memory twice"
    assert peak_gib() < LIMIT_GIB, f"more than {LIMIT_GIB} GiB"


if __name__ == "__main__":
    main(*sys.argv[1:])
