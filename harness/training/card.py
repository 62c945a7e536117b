"""What a training found, and how its card says it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from harness.models.files import PARTS
from harness.tofc.manifest import MERGING
from harness.tofc.trained import ADAPTER, CODEC, REDUCER
from harness.training import recipe
from harness.training.config import Stage, TrainingConfig, learns_reducer, merges

STAGES: Mapping[Stage, str] = {
    "whole": "Algorithm 1, codec and backbone",
    "codec": "codec only: the backbone is as it was published, where the paper tunes it with the codec",
    "merging": "merging only: the backbone is tuned for few features by the distortion alone, and nothing is coded",
}

_FROZEN = "Algorithm 1 around a frozen backbone: the codec alone is trained, where the paper tunes the backbone with it"


class HeldOut(NamedTuple):
    """Means over held-out pictures at one n_c, of streams that were written and read back.

    ``distortion`` and ``right`` are D (Eq. 10) and the share of answer tokens that are right, None where nothing is
    asked about the pictures; ``merged_distortion`` is D of the same features uncoded; ``rate`` is in bits per element
    of y, headers included. ``z_share`` is the mean of the streams' shares; ``expert_use`` counts the features of each
    model; then follows where a stream's bits go, and the bytes and D of each picture, if that is known.
    """

    n_clusters: int
    bytes_per_image: float
    rate: float
    distortion: float | None
    merged_distortion: float | None
    right: float | None
    feature_distortion: float
    z_share: float
    expert_use: tuple[int, ...]
    header_bits: float
    expert_bits: float
    z_bits: float
    y_bits: float
    of_pictures: tuple[tuple[int, float], ...]


class Reduced(NamedTuple):
    """Means over held-out pictures at one n_c, of features that are reduced and not coded.

    D (Eq. 10) of the tuned backbone and of the backbone as it was, the share of answer tokens that the former has
    right, and both Ds of each picture.
    """

    n_clusters: int
    distortion: float
    untuned_distortion: float
    right: float
    of_pictures: tuple[tuple[float, float], ...]


def stage_of(config: TrainingConfig) -> str:
    """What is trained, for a reader."""
    return _FROZEN if config.stage == "whole" and not config.lora.rank else STAGES[config.stage]


def card(config: TrainingConfig, facts: Mapping[str, Any], measured: Sequence[HeldOut] | Sequence[Reduced]) -> str:
    """The folder's contents for a reader."""
    tuned = (
        f"LoRA of rank {config.lora.rank} on vision tower and language model, and the projector, in `{ADAPTER}/` as "
        "peft saves them"
        if config.lora.rank
        else "no adapter"
    )
    steps = facts["steps"]
    fingerprints = ", ".join(f"{part} {facts['fingerprints'][part]}" for part in PARTS)
    name = recipe.recipe_of(config)
    added = "\n".join(f"- {text}" for text in recipe.additions(config))
    departed = "\n".join(f"- {text}" for text in recipe.departures(config))
    about = f"Recipe `{name}`: Algorithm 1" + (", and what it adds to it:\n\n" + added if added else " as it stands.")
    samples = steps["prefit"] * config.prefit.batch, steps["joint"] * config.batch
    joint = f"{steps['joint']} steps of {config.batch} examples ({samples[1]} samples)"
    if config.codec is None:
        about = "By the distortion alone (V-A3)" + (f": {added}" if added else ".")
        what = (
            f"# {config.name}: {config.backbone} tuned for the few features of "
            f"{'merging' if merges(config.scheme) else 'another reduction than merging'}\n\n{tuned}"
        ) + (f"; the reducer of `{config.scheme}` in `{REDUCER}`" if learns_reducer(config.scheme) else "")
        trained = f"Trained by `harness train`: {joint}."
    else:
        models = f"{config.codec.experts} selectable entropy models and their router"
        if config.codec.scheme != MERGING:
            models = f"the entropy coding of `{config.codec.scheme}`"
        what = f"# {config.name}: a codec of {config.backbone}'s features\n\n{models} in `{CODEC}`; {tuned}"
        weight = config.rate_weight if config.stage == "whole" else config.prefit_rate_weight
        trained = (
            f"Trained by `harness train` with lambda = {weight:g}: {steps['prefit']} steps of {config.prefit.batch} "
            f"pictures on cached features with the backbone frozen ({samples[0]} samples)"
        ) + (f", then {joint}." if steps["joint"] else ".")
    return f"""{what}.

Stage: {stage_of(config)}. {trained}

{about}

Other departures from the paper's numbers (V-A):

{departed or "- none"}

- Data: {facts["data"]}.
- Backbone's weights: fingerprints {fingerprints}.
- {origin(facts)}.

On {config.held_out} pictures held out of training; D is the answers' cross entropy (Eq. 10).
{_HOW[config.codec is None]}

{tables(measured)}
"""


_HOW = (
    "Real streams, written and read back: R is their bits per element of y, headers included; error is the features', "
    "squared.",
    "Nothing is coded.",
)


def tables(measured: Sequence[HeldOut] | Sequence[Reduced]) -> str:
    """What streams cost and lose, where their bits go, and how many features each entropy model has, for each n_c.

    Of features that are not coded, what they lose.
    """
    reduced = [row for row in measured if isinstance(row, Reduced)]
    if reduced:
        lines = ["| n_c | D | D of the backbone as it was | tokens right |", "|---|---|---|---|"]
        lines += [
            f"| {r.n_clusters} | {r.distortion:.3f} | {r.untuned_distortion:.3f} | {100 * r.right:.1f} % |"
            for r in reduced
        ]
        return "\n".join(lines)
    return _of_streams([row for row in measured if isinstance(row, HeldOut)])


def _of_streams(measured: Sequence[HeldOut]) -> str:
    rows = [
        "| n_c | bytes an image | R | D | D uncoded | tokens right | error over variance |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row.n_clusters} | {row.bytes_per_image:.0f} | {row.rate:.3f} | {_shown(row.distortion)} "
            f"| {_shown(row.merged_distortion)} | {'-' if row.right is None else f'{100 * row.right:.1f} %'} "
            f"| {row.feature_distortion:.3f} |"
            for row in measured
        ),
        "",
        "Bits of an image's stream by part, and the share of all features that each model codes, most used first:",
        "",
        "| n_c | header | models' indices | z | y | z's share | features | of each model, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in measured:
        features = sum(row.expert_use)
        shares = ", ".join(f"{100 * used / features:.1f}" for used in sorted(row.expert_use, reverse=True))
        rows.append(
            f"| {row.n_clusters} | {row.header_bits:.0f} | {row.expert_bits:.0f} | {row.z_bits:.0f} | {row.y_bits:.0f} "
            f"| {100 * row.z_share:.1f} % | {features} | {shares} |"
        )
    use_E = [sum(used) for used in zip(*(row.expert_use for row in measured), strict=True)]
    least, unused = min(use_E) / sum(use_E), sum(not used for used in use_E)
    rows += ["", f"Over all n_c the least used model has {100 * least:.2f} % of the features; {unused} have none."]
    return "\n".join(rows)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def origin(facts: Mapping[str, Any]) -> str:
    """:func:`came_from` as a card says it."""
    commit = facts["commit"]
    code = "unknown" if commit is None else commit[:9] + ("+changes" if facts["dirty"] else "")
    return (
        f"Seed {facts['seed']}, commit {code}; {facts['seconds'] / 60:.1f} minutes of training in processes: "
        f"{facts['processes']}, on {facts['machine'].get('name', 'unknown machine')}, torch {torch.__version__}"
    )
