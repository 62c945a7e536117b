"""The two recipes: ``paper`` is Algorithm 1 unchanged, ``ours`` adds to it; and other differences in numbers."""

from collections.abc import Mapping
from typing import NamedTuple

from harness.tofc.manifest import MERGING
from harness.training.config import Codec, TrainingConfig

_PAPER_LORA, _PAPER_EXPERTS, _PAPER_ALPHA = 64, 16, 1e-3
_PAPER_LAMBDA = (0.003, 0.03)


class _Settings(NamedTuple):
    """The least and the greatest n_c, and the settings of the backbone's second stage, which the paper uses (V-A2)."""

    clusters: tuple[int, int]
    batch: int
    learning_rates: Mapping[str, float]
    warm_up: float = 0.03


_PAPER: Mapping[str, _Settings] = {
    "llava-onevision-7b": _Settings((8, 32), 256, {"language": 1e-5, "vision": 2e-6, "projector": 1e-5}),
    # That stage freezes the tower.
    "llava-1.5-7b": _Settings((16, 64), 128, {"language": 2e-5, "projector": 2e-5}),
}


def additions(config: TrainingConfig) -> list[str]:
    """What a configuration adds to Algorithm 1, each in a sentence's part; none is the recipe ``paper``."""
    found = []
    if config.codec is None:
        if len(config.clusters) > 1:
            found.append(f"one model for n_c = {', '.join(map(str, config.clusters))}, one drawn each step")
        return found
    if config.prefit.steps:
        found.append(
            f"a pre-fit of the codec alone on cached features, {config.prefit.steps} steps by the distortion of the "
            f"{config.prefit.distortion} with lambda {config.prefit_rate_weight:g}"
        )
    if config.codec.step == "learned":
        found.append("a learned step and offset of the quantiser, where the paper rounds to integers")
    if len(config.clusters) > 1:
        found.append(
            f"one instance for n_c = {', '.join(map(str, config.clusters))}, one drawn each step, where the paper "
            "trains an instance for each"
        )
    if config.temperature.hard_share:
        found.append(
            f"hard steps: the last {100 * config.temperature.hard_share:g} % of the "
            f"{'pre-fit' if config.stage == 'codec' else 'joint training'} have one model a "
            "feature, as inference has"
        )
    return found


def recipe_of(config: TrainingConfig) -> str:
    """``paper`` for a configuration that adds nothing to Algorithm 1, ``ours`` for others."""
    return "ours" if additions(config) else "paper"


def departures(config: TrainingConfig) -> list[str]:
    """Where a configuration's numbers are not the paper's (V-A), each in a sentence's part."""
    lora = config.lora
    found = [] if config.codec is None else _of_codec(config, config.codec)
    if (paper := _PAPER.get(config.backbone)) is None:
        found.append(f"the backbone is {config.backbone}; the paper's are {' and '.join(_PAPER)}")
    else:
        found += _of_settings(config, paper)
    if not lora.rank:
        found.append("the backbone is frozen; the paper adapts tower and language model, and trains the projector")
    elif lora.rank != _PAPER_LORA:
        found.append(f"LoRA of rank {lora.rank}; the paper's is {_PAPER_LORA}")
    if config.data.get("kind") == "pictures":
        found.append("pictures without questions; the paper trains on 665K instruction samples, once each")
    elif config.data.get("kind") != "conversations":
        found.append("the project's own drawn pages; the paper trains on 665K instruction samples, once each")
    elif config.data.get("entries") is not None:
        found.append(f"the first {config.data['entries']} entries; the paper trains on 665K instruction samples")
    if config.data.get("kind") == "conversations" and config.epochs != 1:
        found.append("another number of epochs than the paper's one")
    return found


def _of_settings(config: TrainingConfig, paper: _Settings) -> list[str]:
    (low, high), found = paper.clusters, []
    if outside := [n_c for n_c in config.clusters if not low <= n_c <= high]:
        found.append(f"an n_c of {', '.join(map(str, outside))}; the paper's are {low} to {high}")
    if config.stage == "codec":
        return found
    if config.batch != paper.batch:
        found.append(f"a batch of {config.batch}; the paper's is {paper.batch}")
    if config.warm_up != paper.warm_up:
        found.append(f"a warm-up of {config.warm_up:g} of the steps; the paper's is {paper.warm_up:g}")
    for part, wanted in paper.learning_rates.items() if config.lora.rank else ():
        if (rate := getattr(config.learning_rates, part)) != wanted:
            found.append(f"a learning rate of {rate:g} for the {part} part; the paper's is {wanted:g}")
    return found


def _of_codec(config: TrainingConfig, codec: Codec) -> list[str]:
    temperature, found = config.temperature, []
    if codec.step == "fixed":
        found.append("y is rounded in units of half a channel's first deviation, where the paper rounds to integers")
    if codec.scheme != MERGING:
        found.append(f"the entropy coding of {codec.scheme} instead of selectable entropy models")
    elif codec.experts != _PAPER_EXPERTS:
        found.append(f"{codec.experts} entropy models; the paper has {_PAPER_EXPERTS}")
    if config.alpha != _PAPER_ALPHA:
        found.append(f"a balance weight of {config.alpha:g}; the paper's is {_PAPER_ALPHA:g}")
    if (temperature.start, temperature.end) != (10.0, 0.1):
        found.append(f"a temperature from {temperature.start:g} to {temperature.end:g}; the paper's is from 10 to 0.1")
    low, high = _PAPER_LAMBDA
    if config.rate_weight is not None and not low <= config.rate_weight <= high:
        found.append(f"a lambda of {config.rate_weight:g}; the paper's are {low:g} to {high:g}")
    return found
