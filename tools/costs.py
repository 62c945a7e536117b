"""Prints the tables of ``docs/full_size.md``: what models, networks and studies cost in disk, memory and hours.

    python -m tools.costs

Sizes are computed from the models' configurations on the meta device; hours are estimated (``harness estimate``).
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from baselines.work import HYPERPRIOR
from harness import catalog
from harness.cli import guarded
from harness.data.benchmarks import BENCHMARKS
from harness.estimates.backbone import CountedBackbone
from harness.estimates.estimate import Estimator, Work, total
from harness.estimates.stages import NominalRequest, work_of
from harness.models import hub
from harness.models.files import PARTS
from harness.report.table import markdown_table
from harness.scenario.load import load
from harness.tofc.codec import CodecConfig, TofcCodec

SCENARIOS = Path(__file__).parents[1] / "scenarios"
STUDIES = (
    "first_number",
    "realworldqa_lowrate",
    "realworldqa",
    "mme",
    "rate_performance",
    "llava15",
    "llava15_benchmarks",
    "ablation_entropy",
    "ablation_merging",
)
HARDWARE: Mapping[str, tuple[str, str]] = {
    "one RTX 4090": ("rtx-4090", "rtx-4090"),
    "one H100": ("h100", "h100"),
    "AGX Orin and RTX 4090": ("agx-orin", "rtx-4090"),
}
PICTURES_PX: Mapping[str, tuple[int, int]] = {"RealWorldQA": (1536, 1024)}
OTHER_PICTURE_PX = (640, 480)
"""Assumed: the benchmarks' own sizes vary, and are known when the pictures are here."""
TEXT_TOKENS, ANSWER_TOKENS = 60, 2
LINE_BYTES_S = 100e6 / 8


def main() -> None:
    """Print the tables."""
    print("Models (`harness weights get NAME`):\n")
    print(_models())
    print("\nNetworks that are trained or converted:\n")
    print(_networks())
    print("\nStudies:\n")
    print(_studies())


def _models() -> str:
    rows = []
    for name in hub.names():
        models: Any = catalog.load("backbone", name, catalog.BACKBONES)(
            name, weights="random", device="meta", dtype="bfloat16"
        )
        of_part = {part: _count(models._module(part).parameters()) for part in PARTS}
        text = models.config.text_config
        tokens = _backbone(name).all_tokens(*PICTURES_PX["RealWorldQA"]) + TEXT_TOKENS
        cache = tokens * kept_bytes_of(text)
        whole, tower = 2 * sum(of_part.values()), 2 * of_part["tower"]
        rows.append(
            [
                name,
                f"{sum(of_part.values()) / 1e6:,.1f}",
                f"{of_part['tower'] / 1e6:,.1f}",
                _gb(whole),
                f"{whole / LINE_BYTES_S / 60:.0f}",
                _gb(tower),
                _gb(whole),
                _gb(cache),
            ]
        )
    head = [
        "model",
        "parameters, M",
        "of them tower",
        "disk, GB",
        "download, min",
        "device half, GB",
        "server half, GB",
    ]
    return markdown_table([*head, "and keys and values, GB"], rows, numbers_from=1)


def kept_bytes_of(text: Any) -> int:
    """The bytes of a token's keys and values in 16 bits, in all layers of a language model of this config."""
    # Gemma 3's heads are wider or narrower than their share of the model's width.
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * 2 * int(text.num_hidden_layers * text.num_key_value_heads * head)


def _networks() -> str:
    from baselines.networks.elic import Elic2022Official
    from baselines.networks.hyperprior import ScaleHyperprior

    with torch.device("meta"):
        networks: dict[str, tuple[Iterable[torch.nn.Parameter], int]] = {
            "TOFC's codec, D = 1152, 16 models": (TofcCodec(CodecConfig(dim=1152, n_experts=16)).parameters(), 4),
            "TOFC's codec, D = 1024, 16 models": (TofcCodec(CodecConfig(dim=1024, n_experts=16)).parameters(), 4),
            "hyperprior, 128 and 192 channels": (ScaleHyperprior(128, 192).parameters(), 4),
            "hyperprior, 192 and 320 channels": (ScaleHyperprior(*HYPERPRIOR).parameters(), 4),
            "ELIC, 192 and 320 channels": (Elic2022Official().parameters(), 4),
        }
    rows = []
    for name, (parameters, n_bytes) in networks.items():
        count = _count(parameters)
        rows.append([name, f"{count / 1e6:,.1f}", f"{n_bytes * count / 1e6:,.0f}"])
    return markdown_table(["network", "parameters, M", "in float32, MB"], rows, numbers_from=1)


def _studies() -> str:
    rows = []
    for study in STUDIES:
        scenario = load(SCENARIOS / f"{study}.yaml")
        asked = {
            wanted.name: min(BENCHMARKS[wanted.name].questions, scenario.samples or BENCHMARKS[wanted.name].questions)
            for wanted in scenario.wanted
        }
        timed = scenario.measure.timed_samples * scenario.measure.repeats + scenario.measure.warmup
        points = sum(len(list(spec.operating_points())) for spec in scenario.pipelines)
        hours = []
        for device, server in HARDWARE.values():
            seconds = [_seconds(study, device, server, *PICTURES_PX.get(name, OTHER_PICTURE_PX)) for name in asked]
            answers_s = sum(n * sum(one) for n, one in zip(asked.values(), seconds, strict=True))
            hours.append((answers_s + timed * sum(seconds[0])) / 3600)
        n_asked = sum(asked.values())
        rows.append(
            [
                f"`{study}`",
                scenario.backbone,
                f"{n_asked:,}",
                str(points),
                f"{n_asked * points:,}",
                f"{timed * points:,}",
                *(f"{h:.1f}" for h in hours),
            ]
        )
    head = ["scenario", "backbone", "questions", "points", "answers", "timed requests"]
    return markdown_table([*head, *(f"hours on {name}" for name in HARDWARE)], rows, numbers_from=2)


def _seconds(study: str, device: str, server: str, width_px: int, height_px: int) -> Sequence[float]:
    """The estimated seconds of a request at every point of a study."""
    estimator = Estimator(device, server)
    return [total(estimator.stages(works))[0] for works in _works(study, width_px, height_px)]


@functools.cache
def _works(study: str, width_px: int, height_px: int) -> Sequence[Sequence[Work]]:
    """The work of a request at every point of a study."""
    scenario = load(SCENARIOS / f"{study}.yaml")
    asked = NominalRequest(width_px=width_px, height_px=height_px, text_tokens=TEXT_TOKENS, answer_tokens=ANSWER_TOKENS)
    backbone = _backbone(scenario.backbone)
    return [works for spec in scenario.pipelines for _, works in work_of(spec, backbone, asked)]


@functools.cache
def _backbone(name: str) -> Any:
    """A backbone whose stages are counted once each: most points of a study differ in the codec alone."""
    found: Any = CountedBackbone(name)
    for stage in ("project", "prefill", "generate"):
        setattr(found, stage, functools.cache(getattr(found, stage)))
    return found


def _count(parameters: Iterable[torch.nn.Parameter]) -> int:
    """How many numbers there are; a head that shares the embedding's once."""
    return sum(parameter.numel() for parameter in {id(one): one for one in parameters}.values())


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f}"


if __name__ == "__main__":
    guarded(main, "costs")
