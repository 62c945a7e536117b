"""The cost of ``harness train --stage codec`` at full size: measured here on drawn pictures, with random weights.

    python -m tools.codec_stage FOLDER

LLaVA-OneVision-7B's vision tower encodes drawn pictures of one tile and its thumbnail, features are merged, and sixteen
entropy models of D = 1152 are fitted to them by the shipped configuration with fewer steps; then a stream of a new
picture is written and read back. Seconds and bytes of memory are measured, here; what the shipped budget would take on
this machine is extrapolated from them, in proportion to patches and to features, and says so. With random weights the
codec is useless, but its cost is real. Repeat the command to resume; pictures that are encoded are cached, with the
seconds that they took.

``FOLDER/report.json`` has all of it.
"""

import argparse
import json
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from harness import catalog
from harness.cli import guarded
from harness.data import streetsqa
from harness.models.contract import Untimed
from harness.profiling.machine import this_machine
from harness.runs.disk import write_text
from harness.schemes.tofc import Tofc, TofcPoint
from harness.tofc import manifest
from harness.tofc.trained import MANIFEST
from harness.training.config import TrainingConfig
from harness.training.load import load
from harness.training.loop import Training

CONFIG = Path(__file__).parents[1] / "training" / "llava_onevision_7b.yaml"
CLUSTERS = 16
HELD_OUT = 4
_SIZE_PX = (384, 288)
"""Of a drawn picture: one tile and the thumbnail."""
_PATCHES_OF_A_PHOTOGRAPH = 10
"""Assumed: a thumbnail and 3 x 3 tiles, of a picture of about 1152 x 1152 px."""


def draw(folder: Path, number: int) -> None:
    """Streets of the training split as PNG files; those that exist are not written again."""
    folder.mkdir(parents=True, exist_ok=True)
    book = 0
    while len(found := sorted(folder.glob("*.png"))) < number:
        for index, page in enumerate(streetsqa.book("train", 400_000 + book)[: number - len(found)]):
            image = page.scene().image.resize(_SIZE_PX, Image.Resampling.BICUBIC)
            image.save(folder / f"{book:03d}-{index:03d}.png")
        book += 1


def configuration(folder: Path, pictures: int, steps: int, batch: int, backbone: str) -> TrainingConfig:
    """The shipped configuration of the codec alone, on drawn pictures and with few steps."""
    settings = {
        "backbone": backbone,
        "weights": "random",
        "dtype": "bfloat16",
        "precision": '"no"',
        "clusters": f"[{CLUSTERS}]",
        "data": f"{{kind: pictures, folder: {json.dumps(str(folder / 'pictures'))}}}",
        "held_out": HELD_OUT,
        "prefit.pictures": pictures,
        "prefit.steps": steps,
        "prefit.batch": batch,
        "prefit.cache": json.dumps(str(folder / "features")),
        "log_every": 5,
        "save_every": 20,
        "workers": 0,
        "threads": torch.get_num_threads(),
        "out": json.dumps(str(folder / "codec")),
    }
    return load(CONFIG, [f"{key}={value}" for key, value in settings.items()], "codec")


class Timed:
    """A reporter that records the seconds of each phase's steps in a file, and shows progress."""

    def __init__(self, console: Console, file: Path) -> None:
        self.seconds: dict[str, list[float]] = json.loads(file.read_text()) if file.exists() else {}
        self._console, self._file, self._name, self._last_s = console, file, "", 0.0

    def phase(self, name: str, total: int, done: int) -> None:
        """Begins a phase."""
        self._console.print(f"{name}: {total} steps, {done} done earlier")
        self._name, self._last_s = name, time.perf_counter()
        self.seconds[name] = self.seconds.get(name, [])[:done]  # A repeated step is timed again.

    def advance(self) -> None:
        """One step of the phase is done."""
        now_s = time.perf_counter()
        self.seconds[self._name].append(now_s - self._last_s)
        self._last_s = now_s
        write_text(self._file, json.dumps(self.seconds))
        if len(self.seconds[self._name]) % 5 == 0:
            self._console.print(f"{self._name}: {len(self.seconds[self._name])}, {self.seconds[self._name][-1]:.2f} s")

    def line(self, text: str) -> None:
        """Shows a line of the log."""
        self._console.print(text, highlight=False)


def peak_bytes() -> int:
    """The peak memory of this process, on the CPU and on an accelerator."""
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + on_gpu


def sent(folder: Path, config: TrainingConfig, picture: Path) -> tuple[int, float]:
    """The bytes of a picture's stream by the scheme ``tofc``, and its features' squared error over their variance."""
    load_backbone = catalog.load("backbone", config.backbone, catalog.BACKBONES)
    torch.manual_seed(config.seed)
    models = load_backbone(config.backbone, dtype=config.dtype, weights="random")
    device: Any = Tofc.device_half(models, TofcPoint(codec=str(folder), n_c=CLUSTERS))
    with Image.open(picture) as opened:
        seen = device.vision.see(opened.convert("RGB"), Untimed())
    y_PCD = device.reducer(seen.x_PVD, CLUSTERS).float()
    stream = device.codec.compress(y_PCD, seen.layout.grid)
    lost = (device.codec.decompress(stream).y_PCD - y_PCD).square().mean() / y_PCD.flatten(0, 1).var(0).mean()
    return len(stream), float(lost)


def extrapolated(measured: Mapping[str, float], whole: TrainingConfig) -> dict[str, float]:
    """What the shipped budget would take on this machine, in hours, in proportion to patches and to features."""
    patches = whole.prefit.pictures * _PATCHES_OF_A_PHOTOGRAPH
    mean_n_c = sum(whole.clusters) / len(whole.clusters)
    features = whole.prefit.steps * whole.prefit.batch * _PATCHES_OF_A_PHOTOGRAPH * mean_n_c
    return {
        "encode_and_merge_hours": patches * measured["seconds_a_patch"] / 3600,
        "fit_hours": features * measured["seconds_a_feature_and_step"] / 3600,
        "cache_gib": patches * sum(whole.clusters) * measured["feature_bytes"] / 2**30,
    }


def _at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stage, and print what was measured and what is extrapolated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", default="llava-onevision-7b", help="built with random weights")
    parser.add_argument("--pictures", type=_at_least_one, default=40, help="to fit to; a few more are held out")
    parser.add_argument("--steps", type=_at_least_one, default=40)
    parser.add_argument("--batch", type=_at_least_one, default=8, help="pictures per step")
    given = parser.parse_args(arguments)
    console, folder = Console(markup=False, emoji=False), Path(given.folder)
    draw(folder / "pictures", given.pictures + HELD_OUT)
    config = configuration(folder, given.pictures, given.steps, given.batch, given.backbone)
    begun_s = time.perf_counter()
    training = Training(config, machine=this_machine())
    built_s = time.perf_counter() - begun_s
    console.print(training.plan())
    reporter = Timed(console, folder / "seconds.json")
    if training.is_complete:
        console.print(f"{config.out}: is complete; remove it to measure again")
        return
    out = training.run(reporter)
    found = manifest.read(out / MANIFEST)
    patches = 2
    encoded, steps = reporter.seconds.get("features", []), reporter.seconds["prefit"]
    dim = training.backbone.feature_dim
    measured: dict[str, float] = {
        "built_s": built_s,
        "weights_bytes": float(sum(p.numel() * p.element_size() for p in training.backbone.vision_tower.parameters())),
        "codec_parameters": float(sum(p.numel() for p in training.codec.parameters())),
        "pictures_encoded": float(len(encoded)),
        "feature_bytes": 4.0 * dim,
        "steps_timed": float(len(steps)),
        "features_a_step": float(given.batch * patches * CLUSTERS),
        "peak_bytes": float(peak_bytes()),
    }
    stream_bytes, error = sent(out, config, sorted((folder / "pictures").glob("*.png"))[-1])
    measured |= {"stream_bytes": float(stream_bytes), "error_over_variance": error}
    report: dict[str, Any] = {"machine": this_machine(), "measured": measured, "held_out": found["held_out"]}
    if encoded:
        measured["seconds_a_patch"] = sum(encoded) / len(encoded) / patches
    if steps:
        measured["seconds_a_step"] = sum(steps) / len(steps)
        measured["seconds_a_feature_and_step"] = measured["seconds_a_step"] / measured["features_a_step"]
    if encoded and steps:
        report["extrapolated"] = extrapolated(measured, load(CONFIG, stage="codec"))
    write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")
    table = Table(title=f"{given.backbone}, codec only, random weights, {torch.get_num_threads()} thread(s)")
    for heading in ("what", "value", "how it is known"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for how in ("measured", "extrapolated"):
        for what, value in report.get(how, {}).items():
            table.add_row(what, f"{value:.4g}", how)
    console.print(table)


if __name__ == "__main__":
    guarded(main, "codec_stage", resumes=True)
