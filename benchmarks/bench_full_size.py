"""LLaVA-OneVision-0.5B at its full size answers one StreetsQA question through TOFC's whole path, on a CPU.

Random weights, in bfloat16: the answer is noise, the work and the memory are real. 729 features of 1152 a patch, merged
to n_c = 16, coded by sixteen entropy models of that width, sent as bytes, decoded, projected, answered. Needs 4 GB of
memory and no network.
"""

import resource
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from harness.data.asking import samples
from harness.data.streetsqa import book
from harness.models.contract import Backbone
from harness.models.onevision import load
from harness.profiling.clock import StageClock
from harness.schemes.contract import stage_sides
from harness.schemes.tofc import Tofc, TofcPoint
from harness.tofc.codec import CodecConfig, TofcCodec
from harness.tofc.feature_codec import FeatureCodec
from harness.tofc.reducer import Merging, Reducer

NAME = "llava-onevision-0.5b"
CLUSTERS = 16
EXPERTS = 16
LIMIT_GIB = 10


class RandomlyCoded(Tofc):
    """TOFC with a codec that nobody has trained: its rate means nothing, its work and its losslessness do."""

    def parts(self, backbone: Backbone, point: TofcPoint) -> tuple[Backbone, Reducer, FeatureCodec]:  # noqa: ARG002
        """A codec of the backbone's width, its scale fitted to noise."""
        torch.manual_seed(0)
        codec = TofcCodec(CodecConfig(dim=backbone.feature_dim, n_experts=EXPERTS)).eval()
        noise_PCD = torch.randn(4, 64, backbone.feature_dim)
        codec.fit_scale(noise_PCD)
        codec.freeze(noise_PCD)
        return backbone, Merging(), codec


def resident_gib() -> float:
    """The memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**30


def peak_gib() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Print what was built, a row a stage, and the peak of memory; fails above the limit."""
    before_gib = resident_gib()
    start = time.perf_counter()
    backbone = load(NAME, weights="random", dtype="bfloat16")
    built_s = time.perf_counter() - start
    parameters = list(backbone.model.parameters())
    held_gib = sum(p.numel() * p.element_size() for p in parameters) / 2**30
    grown_gib = peak_gib() - before_gib
    scheme = RandomlyCoded(backbone, TofcPoint(codec="random", merge_to=CLUSTERS / backbone.n_features))
    coded_m = sum(p.numel() for p in scheme.codec.parameters()) / 1e6
    (sample, *_) = samples(book("test", 0)[:1], paired=False)
    for _ in range(2):
        # The first request compiles the merging, and is dropped.
        clock = StageClock()
        payload = scheme.on_device(sample, clock)
        (answer,) = scheme.on_server(payload, [sample.question], clock)

    table = Table(title=f"{NAME}, random weights, bfloat16, {torch.get_num_threads()} thread(s)")
    for heading in ("side", "stage", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for stage, side in stage_sides(type(scheme)).items():
        table.add_row(side, stage, f"{clock.seconds[stage]:.3f}")
    console = Console()
    console.print(
        f"{sum(p.numel() for p in parameters) / 1e6:.1f} million parameters, {held_gib:.2f} GiB, "
        f"built in {built_s:.1f} s; building took {grown_gib:.2f} GiB at its peak"
    )
    console.print(f"codec: {EXPERTS} entropy models, {coded_m:.1f} million parameters")
    console.print(table)
    width, height = sample.image().size
    console.print(
        f"{width} x {height} picture, {answer.visual_tokens} visual tokens, {len(payload.body)} payload bytes; "
        f"peak memory {peak_gib():.2f} GiB"
    )
    assert grown_gib < 1.25 * held_gib, "random weights were in memory twice"
    assert peak_gib() < LIMIT_GIB, f"more than {LIMIT_GIB} GiB"


if __name__ == "__main__":
    main()
