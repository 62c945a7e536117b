"""All checks that need a GPU, in one command: the full size with random weights, timed, counted, coded, estimated.

    python -m tools.full_size FOLDER                                  on a machine with a GPU: the 7B
    python -m tools.full_size FOLDER --backbone mini-onevision        anywhere, in a minute

1. Both halves of every scheme run on drawn streets at the size of photographs: the stage rows are in
   ``FOLDER/profile.parquet``, the machine's description in ``FOLDER/card.json``. Answers are noise; work and bytes are
   real.
2. Vision, prefill, generate and the others stand beside their estimates, where the machine has a data sheet.
3. NVML's energy counter is read beside its power, sampled meanwhile.
4. TOFC's streams that the GPU codes are decoded on the CPU and the reverse; the golden streams of another machine too.

``FOLDER/report.json`` has all of it. The exit status is 1 if a stream decodes differently on the other side.
"""

import argparse
import dataclasses
import io
import itertools
import json
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

import harness as library
from harness import catalog
from harness.cli import guarded
from harness.data import streetsqa
from harness.data.questions import samples
from harness.data.sample import Sample
from harness.errors import ExitCode, ScenarioError
from harness.estimates.backbone import CountedBackbone
from harness.estimates.estimate import Estimator
from harness.estimates.sheets import named as sheet_named
from harness.estimates.sheets import sheets
from harness.estimates.stages import NominalRequest, work_of
from harness.measure import Split
from harness.models.contract import Answer, Models, Untimed
from harness.profiling.clock import synchroniser
from harness.profiling.machine import this_machine
from harness.profiling.nvml import Gpu, gpus
from harness.profiling.resources import memory_taken_bytes, weights_bytes
from harness.runs.provenance import package_versions
from harness.scenario.model import PipelineSpec
from harness.schemes.envelope import send
from harness.schemes.features import FeatureDevice, FeatureServer, limits_of
from harness.schemes.tofc import Tofc, TofcPoint
from harness.tofc.codec import CodecConfig, TofcCodec
from harness.tofc.merging import Merging
from tools import portability

MERGE_TO = 0.022
GOLDEN = Path(__file__).parents[1] / "tests" / "tools" / "golden"
POINTS: Mapping[str, dict[str, Any]] = {
    "server_only": {},
    "device_only": {"merge_to": MERGE_TO, "weights": "random"},
    "raw_features": {"merge_to": MERGE_TO},
    "jpeg": {"quality": 15, "merge_to": MERGE_TO},
    "webp": {"quality": 20, "method": 4, "merge_to": MERGE_TO},
    "hyperprior": {"weights": 0.006, "merge_to": MERGE_TO},
    "elic": {"weights": 0.006, "merge_to": MERGE_TO},
}
"""hyperprior and elic are the project's own small networks: their times are not those of the published sizes."""
_SMALL = ("hyperprior", "elic")
_POWER_EVERY_S = 0.02


def codec_for(dim: int, device: str) -> TofcCodec:
    """The paper's codec at a width, untrained, its scale fitted to noise: work and losslessness are real."""
    torch.manual_seed(0)
    # At D = 4096 the widths that are the default, (D, D / 2), would make a codec of a billion parameters.
    hidden = (1152, 576) if dim > 1152 else ()
    codec = TofcCodec(CodecConfig(dim=dim, n_experts=16, hidden=hidden)).eval()
    noise_PCD = torch.randn(4, 64, dim)
    codec.fit_scale(noise_PCD)
    codec.to(device).freeze(noise_PCD.to(device))
    return codec


def pictures(number: int, width: int, height: int) -> list[Sample]:
    """Drawn streets enlarged to a size, as JPEG files of quality 95, each with its question."""
    found = []
    for sample in samples(streetsqa.book("test", 0)[:number], paired=False)[:number]:
        file = io.BytesIO()
        sample.image().resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
        found.append(dataclasses.replace(sample, image_bytes=file.getvalue()))
    return found


def splits(models: Models, codec: TofcCodec, schemes: Sequence[str]) -> Iterator[tuple[str, Any, Split]]:
    """Each scheme's name, point and halves; one that lacks something here is skipped without an error."""
    vision, language = models.vision(), models.language()
    if "tofc" in schemes:
        point = TofcPoint(codec="untrained", merge_to=MERGE_TO)
        device = FeatureDevice(Tofc.kind, vision, Merging(), codec, point)
        server = FeatureServer(language, codec, limits_of(models, language, point))
        yield "tofc", point, Split(kind=Tofc.kind, device=device, server=server)
    for name, parameters in POINTS.items():
        if name not in schemes:
            continue
        scheme = catalog.load("scheme", name, catalog.SCHEMES)
        point = scheme.Point.model_validate(parameters)
        halves = scheme.device_half(models, point), scheme.server_half(models, point)
        yield name, point, Split(kind=scheme.kind, device=halves[0], server=halves[1])


def timed(
    split: Split, name: str, label: str, shown: Sequence[Sample], rounds: int, recorder: Any, device: str
) -> dict[str, Any]:
    """Times a scheme: its stage rows go to the recorder; returns the medians, the payloads, tokens and memory."""
    for sample in shown[:2]:
        _once(split, sample, Untimed(), Untimed())
    seconds: dict[tuple[str, str], list[float]] = {}
    sizes, tokens = [], []
    for repeat in range(rounds):
        for sample in shown:
            where = {"repeat": repeat, "pipeline": name, "point": label}
            with (
                recorder.request(sample.id, side="device", **where) as on_device,
                recorder.request(sample.id, side="server", **where) as on_server,
            ):
                n_bytes, answer = _once(split, sample, on_device, on_server)
            for side, clock in (("device", on_device), ("server", on_server)):
                for stage, taken in clock.seconds.items():
                    seconds.setdefault((side, stage), []).append(taken)
            sizes.append(n_bytes)
            tokens.append((answer.prompt_tokens - answer.visual_tokens, answer.answer_tokens))
    memory = memory_taken_bytes(lambda: _once(split, shown[0], Untimed(), Untimed()), device)
    return {
        "stages_s": {f"{side} {stage}": statistics.median(values) for (side, stage), values in seconds.items()},
        "payload_bytes": statistics.mean(sizes),
        "text_tokens": round(statistics.mean(text for text, _ in tokens)),
        "answer_tokens": round(statistics.mean(answered for _, answered in tokens)),
        "weights_bytes": weights_bytes([split.device, split.server]),
        "memory_taken_bytes": memory,
    }


def _once(split: Split, sample: Sample, on_device: Any, on_server: Any) -> tuple[int, Answer]:
    sent = send(split.device, sample, on_device)
    if isinstance(sent, Answer):
        return 0, sent
    (answer,), _ = split.serve(sent, [sample.question], on_server)
    return len(sent), answer


def beside_estimates(
    measured: Mapping[str, Any],
    point: Any,
    name: str,
    backbone: CountedBackbone,
    asked: NominalRequest,
    estimator: Estimator,
) -> list[dict[str, Any]]:
    """Each stage's median over its estimate, and whether it lies within the estimate's interval."""
    spec = PipelineSpec.model_construct(scheme=name, name=name, points=(point.model_dump(),))
    ((_, works),) = list(work_of(spec, backbone, asked))
    found = []
    for stage in estimator.stages(works):
        median_s = measured["stages_s"].get(f"{stage.side} {stage.stage}")
        if median_s is not None:
            found.append(
                {
                    "pipeline": name,
                    "side": stage.side,
                    "stage": stage.stage,
                    "measured_s": median_s,
                    "estimated_s": stage.seconds,
                    "low_s": stage.low_s,
                    "high_s": stage.high_s,
                    "within": bool(stage.low_s <= median_s <= stage.high_s),
                    "small_network": name in _SMALL and stage.stage in ("encode", "decode"),
                }
            )
    return found


def energy(split: Split, sample: Sample, seconds: float) -> dict[str, Any]:
    """NVML's energy counter over a stretch of requests, and the integral of its power samples meanwhile."""
    found, why = gpus()
    if not found:
        return {"unavailable": why}
    gpu = found[0]
    if gpu.ask("TotalEnergyConsumption") is None or gpu.ask("PowerUsage") is None:
        return {"unavailable": f"{gpu} tells no energy, or no power"}
    samples_sw: list[tuple[float, float]] = []
    stop = threading.Event()
    sampling = threading.Thread(target=_sample_power, args=(gpu, samples_sw, stop))
    begin_j, begin_s = _energy_j(gpu), time.perf_counter()
    sampling.start()
    requests = 0
    while time.perf_counter() - begin_s < seconds:
        _once(split, sample, Untimed(), Untimed())
        requests += 1
    end_j, end_s = _energy_j(gpu), time.perf_counter()
    stop.set()
    sampling.join()
    integral_j = sum((b_s - a_s) * (a_w + b_w) / 2 for (a_s, a_w), (b_s, b_w) in itertools.pairwise(samples_sw))
    return {
        "gpu": str(gpu),
        "requests": requests,
        "seconds": end_s - begin_s,
        "counter_j": end_j - begin_j,
        "power_samples": len(samples_sw),
        "power_integral_j": integral_j,
        "counter_over_integral": (end_j - begin_j) / integral_j if integral_j else None,
    }


def _energy_j(gpu: Gpu) -> float:
    return float(gpu.ask("TotalEnergyConsumption")) / 1e3


def _sample_power(gpu: Gpu, samples_sw: list[tuple[float, float]], stop: threading.Event) -> None:
    while not stop.is_set():
        if (milliwatts := gpu.ask("PowerUsage")) is not None:
            samples_sw.append((time.perf_counter(), milliwatts / 1e3))
        stop.wait(_POWER_EVERY_S)


def both_ways(codec: TofcCodec, device: str, folder: Path) -> dict[str, Any]:
    """Features coded on ``device`` and decoded on the CPU, and the reverse; the golden streams decoded here."""
    path = folder / "codec.safetensors"
    codec.save(path)
    here, there = TofcCodec.load(path, device), TofcCodec.load(path, "cpu")
    path.unlink()
    generator = torch.Generator().manual_seed(1)
    y_PCD = torch.randn(5, 16, codec.config.dim, generator=generator)
    wrong = []
    for coder, decoder, way in ((here, there, f"{device} to cpu"), (there, here, f"cpu to {device}")):
        stream = coder.compress(y_PCD.to(coder.device), (2, 2))
        own, other = (of.decompress(stream, limits=None).y_PCD.cpu() for of in (coder, decoder))
        if not torch.equal(own, other):
            wrong.append(way)
    seen: dict[str, Any] = {"ways": [f"{device} to cpu", f"cpu to {device}"], "different": wrong}
    if GOLDEN.is_dir():
        lines, code = portability.decode(GOLDEN)
        seen |= {"golden": lines, "golden_code": code}
    return seen


def sheet_of(named: str | None) -> str | None:
    """The data sheet of this machine: as named, or by the GPU's name; None where there is none."""
    if named is not None:
        sheets().machine(named)
        return named
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    # torch calls the GPU of every Orin so.
    return "agx-orin" if gpu == "Orin" else sheet_named(gpu)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbone", choices=list(catalog.BACKBONES))
    parser.add_argument("--sheet", help="a data sheet's name (harness estimate --machines)")
    parser.add_argument("--size", default="", help="the pictures' size, such as 1536x1024")
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--energy-s", type=float, default=30.0)
    parser.add_argument("--schemes", nargs="+", choices=["tofc", *POINTS], default=["tofc", *POINTS])
    given = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = given.backbone or ("llava-onevision-7b" if device == "cuda" else "mini-onevision")
    width, _, height = (given.size or ("480x320" if name.startswith("mini-") else "1536x1024")).partition("x")
    schemes = [s for s in given.schemes if s != "device_only" or name in catalog.ON_DEVICE]
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()

    load = catalog.load("backbone", name, catalog.BACKBONES)
    start = time.perf_counter()
    models = load(name, device=device, weights="random")
    codec = codec_for(models.vision().feature_dim, device)
    models.language()
    built_s = time.perf_counter() - start
    shown = pictures(given.pictures, int(width), int(height))
    sheet = sheet_of(given.sheet)
    card = {
        "machine": this_machine(),
        "packages": package_versions(),
        "cuda": torch.version.cuda,
        "device": device,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "backbone": name,
        "weights": "random",
        "size_px": [int(width), int(height)],
        "sheet": sheet,
        "built_s": built_s,
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    profile = folder / "profile.parquet"
    profile.unlink(missing_ok=True)
    recorder = library.record(profile, synchronise=synchroniser(device))
    report: dict[str, Any] = {"card": card, "schemes": {}, "estimates": []}
    estimator = Estimator(sheet, sheet) if sheet else None
    backbone = CountedBackbone(name) if sheet else None
    first: Split | None = None
    for scheme, point, split in splits(models, codec, schemes):
        first = first or split
        console.print(f"{scheme} at {point.label} ...")
        seen = timed(split, scheme, point.label, shown, given.rounds, recorder, device)
        report["schemes"][scheme] = seen
        if estimator is not None and backbone is not None:
            asked = NominalRequest(
                width_px=int(width),
                height_px=int(height),
                text_tokens=seen["text_tokens"],
                answer_tokens=seen["answer_tokens"],
            )
            try:
                report["estimates"] += beside_estimates(seen, point, scheme, backbone, asked, estimator)
            except ScenarioError as error:
                console.print(str(error))
    assert first is not None
    report["energy"] = energy(first, shown[0], given.energy_s)
    report["streams"] = both_ways(codec, device, folder)
    (folder / "report.json").write_text(json.dumps(report, indent=2, default=str) + "\n")
    _show(report, console)
    return ExitCode.NEGATIVE if report["streams"]["different"] or report["streams"].get("golden_code") else 0


def _show(report: Mapping[str, Any], console: Console) -> None:
    card = report["card"]
    table = Table(title=f"{card['backbone']}, random weights, on {card['gpu'] or card['machine']['name']}")
    for heading in ("scheme", "stage", "median", "estimated", "ratio"):
        table.add_column(heading, justify="right" if heading in ("median", "estimated", "ratio") else "left")
    estimates = {(row["pipeline"], f"{row['side']} {row['stage']}"): row for row in report["estimates"]}
    for scheme, seen in report["schemes"].items():
        for stage, seconds in seen["stages_s"].items():
            row = estimates.get((scheme, stage))
            beside = ("-", "-") if row is None else (_ms(row["estimated_s"]), f"{row['estimated_s'] / seconds:.2f}")
            table.add_row(scheme, stage, _ms(seconds), *beside)
    console.print(table)
    if card["sheet"] is None:
        console.print("no data sheet is known for this machine: nothing is estimated; name one with --sheet")
    elif report["estimates"]:
        rows = [row for row in report["estimates"] if not row["small_network"]]
        console.print(f"{sum(row['within'] for row in rows)} of {len(rows)} stages lie within their estimate's 95 %")
    console.print(f"energy: {json.dumps(report['energy'])}")
    streams = report["streams"]
    console.print(f"streams {', '.join(streams['ways'])}: {len(streams['different'])} different")


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


if __name__ == "__main__":
    guarded(main, "full_size")
