"""What is counted: operations and memory of halves, tokens, what codecs recorded, a published architecture."""

import functools
import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray

from harness import catalog
from harness.analysis.means import Estimate
from harness.claims.evaluation import Evaluation, exact, point_of, refused
from harness.claims.model import Parameter
from harness.claims.verdict import Item
from harness.errors import CheckpointError, HarnessError
from harness.tofc import manifest
from harness.tofc.trained import MANIFEST, find_codec

RESIDENT_BYTES = 3e5
"""How far a peak of resident memory may be off."""


def operations_ratio(evaluation: Evaluation) -> list[Item]:
    """The operations of a half, or of some of its stages."""
    return _resources(evaluation, lambda of: exact(of["operations"]))


def memory_ratio(evaluation: Evaluation) -> list[Item]:
    """What a half needs beyond its weights for one request."""

    def span(of: Mapping[str, float]) -> Estimate:
        beyond = of["peak_memory_bytes"] - of["weights_bytes"]
        return Estimate(beyond, max(0.0, beyond - RESIDENT_BYTES), beyond + RESIDENT_BYTES)

    return _resources(evaluation, span)


def _resources(evaluation: Evaluation, span: Callable[[Mapping[str, float]], Estimate]) -> list[Item]:
    test = evaluation.test
    found = []
    for other in test.over:
        mine, theirs = (
            _of_half(evaluation, str(test.of), test.at, span),
            _of_half(evaluation, other, test.over_at, span),
        )
        if isinstance(mine, str) or isinstance(theirs, str):
            estimate = refused(mine if isinstance(mine, str) else str(theirs))
        elif strange := _unknown_stages(evaluation, other):
            estimate = refused(f"neither {test.of} nor {other} has a {test.side} stage {' or '.join(strange)}")
        elif theirs.low <= 0:
            estimate = refused(f"{other}'s {test.side} half needs less memory than can be measured")
        else:
            estimate = Estimate(mine.value / theirs.value, mine.low / theirs.high, mine.high / theirs.low)
        found.append(Item(label=other, estimate=estimate))
    return found


def _unknown_stages(evaluation: Evaluation, other: str) -> list[str]:
    """The stages of a test that neither scheme has on its side; one of the two may lack some, such as a merge."""
    test, table = evaluation.test, evaluation.run.record.resources
    pipelines = [evaluation.pipelines[name] for name in (str(test.of), other)]
    rows = table.select(["pipeline", "side", "stage"]).to_pylist()
    known = {row["stage"] for row in rows if row["pipeline"] in pipelines and row["side"] == test.side}
    return [name for name in test.stages if name not in known]


def _of_half(
    evaluation: Evaluation,
    scheme: str,
    at: Mapping[str, Parameter],
    span: Callable[[Mapping[str, float]], Estimate],
) -> Estimate | str:
    """What a half of a scheme needs of a quantity, with the least and the most; or why it is not known."""
    test, table = evaluation.test, evaluation.run.record.resources.to_pandas()
    # What a half needs does not depend on its score.
    if isinstance(key := point_of(evaluation, scheme, at, timed=False, first=True), str):
        return key
    mine = table[(table["pipeline"] == key[0]) & (table["point"] == key[1]) & (table["side"] == test.side)]
    if test.stages:
        mine = mine[mine["stage"].isin(test.stages)]
    quantities = {str(name): float(value) for name, value in mine.groupby("quantity")["value"].sum().items()}
    try:
        return span(quantities)
    except KeyError as error:
        return f"{error.args[0]} of {scheme}'s {test.side} half was not measured"


def visual_share(evaluation: Evaluation) -> list[Item]:
    """Visual tokens over the prompt's, of all questions."""
    key = point_of(evaluation, str(evaluation.test.of), evaluation.test.at, timed=False)
    if isinstance(key, str):
        return [Item(label=str(evaluation.test.of), estimate=refused(key))]
    visual, prompt = (evaluation.run.scores.mean_of_means(key, f"{name}_tokens") for name in ("visual", "prompt"))
    return [Item(label=str(evaluation.test.of), estimate=exact(visual / prompt))]


def likelihood_lead(evaluation: Evaluation) -> list[Item]:
    """The log-likelihood of features' elements under a Laplacian less that of the better of the two others, in nats."""
    found = evaluation.run.illustrations
    density = None if found is None else found.density
    if density is None or density.pipeline != evaluation.pipelines[str(evaluation.test.of)]:
        why = "no densities of features were computed; 'harness illustrate' does"
        return [Item(label=str(evaluation.test.of), estimate=refused(why))]
    items = []
    for label, histogram in (("unmerged", density.unmerged), ("merged", density.merged)):
        others = [fit.log_likelihood for family, fit in histogram.fits.items() if family != "Laplacian"]
        lead = histogram.fits["Laplacian"].log_likelihood - max(others)
        items.append(Item(label=f"{label}, {histogram.elements} elements", estimate=exact(lead)))
    return items


def z_share(evaluation: Evaluation) -> list[Item]:
    """The share of z in the stream."""
    illustrated = [Item(label=label, estimate=exact(of["z"])) for label, of in _illustrated(evaluation)]
    held_out = [Item(label=label, estimate=exact(row["z_share"])) for label, row in _held_out(evaluation)]
    return illustrated or held_out or _no_codec(evaluation)


def experts_share(evaluation: Evaluation) -> list[Item]:
    """The indices of the entropy models (the part ``experts``) over the whole stream.

    Where a training recorded no bits of them, an index takes from the entropy of the models' use to log2 of their
    number.
    """
    found = [Item(label=label, estimate=exact(of["experts"])) for label, of in _illustrated(evaluation)]
    for label, row in () if found else _held_out(evaluation):
        if "expert_bits" in row:
            found.append(Item(label=label, estimate=exact(row["expert_bits"] / (8 * row["bytes_per_image"]))))
            continue
        use = np.asarray(row["expert_use"], dtype=np.float64)
        bits = 8 * row["bytes_per_image"] * row["pictures"] / use.sum()
        least, most = _entropy_bits(use), math.log2(use.size)
        found.append(Item(label=label, estimate=Estimate(least / bits, least / bits, most / bits)))
    return found or _no_codec(evaluation)


def _entropy_bits(use_E: NDArray[np.float64]) -> float:
    """The entropy of which model codes a feature, from how often each does."""
    return float(scipy.special.entr(use_E / use_E.sum()).sum()) / math.log(2)


def _illustrated(evaluation: Evaluation) -> list[tuple[str, Mapping[str, float]]]:
    """Where the bits of the scheme's points went, as shares of all, for points whose streams have these parts."""
    found = evaluation.run.illustrations
    mine = (
        []
        if found is None
        else [row for row in found.bits if row.pipeline == evaluation.pipelines[str(evaluation.test.of)]]
    )
    of_points: dict[str, dict[str, float]] = {}
    for row in mine:
        of_points.setdefault(f"{row.point}, {row.pictures} pictures", {})[row.part] = row.bits
    return [
        (label, {part: bits / sum(parts.values()) for part, bits in parts.items()})
        for label, parts in of_points.items()
        if {"z", "experts"} <= parts.keys()
    ]


def experts_used(evaluation: Evaluation) -> list[Item]:
    """The share of the entropy models that coded a feature."""
    return [
        Item(label=label, estimate=exact(float(np.mean(np.asarray(row["expert_use"]) > 0))))
        for label, row in _held_out(evaluation)
    ] or _no_codec(evaluation)


def _no_codec(evaluation: Evaluation) -> list[Item]:
    return [
        Item(label=str(evaluation.test.of), estimate=refused("no codec of the run has a training's manifest beside it"))
    ]


def _held_out(evaluation: Evaluation) -> list[tuple[str, Mapping[str, Any]]]:
    """What the training of each codec of the scheme's points recorded on its held-out pictures."""
    points = evaluation.run.manifest.points[evaluation.pipelines[str(evaluation.test.of)]].values()
    found: list[tuple[str, Mapping[str, Any]]] = []
    for codec in dict.fromkeys(str(point["codec"]) for point in points if "codec" in point):
        try:
            # A training's record lies beside its codec.
            held_out = manifest.read(find_codec(evaluation.run.manifest.backbone, codec).parent / MANIFEST)["held_out"]
            rows = [{**row, "pictures": held_out["pictures"]} for row in held_out["rows"]]
        except (HarnessError, KeyError, TypeError):
            continue
        found += [(f"{codec}, n_c = {row['n_clusters']}", row) for row in rows if _is_whole(row)]
    return found


def _is_whole(row: Mapping[str, Any]) -> bool:
    return {"z_share", "expert_use", "bytes_per_image", "n_clusters"} <= row.keys() and sum(row["expert_use"]) > 0


def features_a_patch(backbone: str) -> int:
    """V, the features that the tower's reduction leaves of a tile.

    Raises CheckpointError for a miniature, and for a backbone from elsewhere.
    """
    return int(_family(backbone).cut(_config(backbone)).n_features)


@functools.cache
def trainable_parameters(backbone: str, rank: int = 64, experts: int = 16) -> int:
    """LoRA on tower and language model, the projector, and TOFC's codec with its router.

    Raises CheckpointError for a miniature.
    """
    import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
    import torch

    from harness.models import adapter
    from harness.tofc.codec import CodecConfig, TofcCodec

    config = _config(backbone)
    with torch.device("meta"):
        model = _family(backbone).model_class(config)
        codec = TofcCodec(CodecConfig(dim=_family(backbone).cut(config).feature_dim, n_experts=experts))
    parts: Any = SimpleNamespace(model=model, projector=model.model.multi_modal_projector)
    return adapter.size(parts, rank) + sum(p.numel() for p in codec.parameters())


def _family(backbone: str) -> Any:
    """The family of a backbone: the first argument of its loader."""
    if not (given := getattr(catalog.load("backbone", backbone, catalog.BACKBONES), "args", ())):
        raise CheckpointError(f"backbone {backbone}: its architecture is not known without its weights")
    return given[0]


def _config(backbone: str) -> Any:
    return _family(backbone).full_size(backbone)
