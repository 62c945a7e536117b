"""What tables and figures say of points that run otherwise than their weights were trained."""

from collections.abc import Mapping, Sequence
from typing import Any


def untuned(
    points: Mapping[str, Mapping[str, Mapping[str, Any]]], untrained: Mapping[str, Mapping[str, Sequence[int] | None]]
) -> list[str]:
    """What is said of points that run otherwise than their weights were trained; ``untrained`` is as in a manifest.

    An image codec that merges without an ``adapter`` is answered by a model that was not tuned for merged features,
    where the paper's is (V-A3).
    """
    found = {
        "not tuned for merging": [name for name, of in points.items() if any(map(merges_untuned, of.values()))],
        "n_c not trained for": [
            _some(name, [label for label, trained in of.items() if trained is not None], points[name])
            for name, of in untrained.items()
            if any(trained is not None for trained in of.values())
        ],
        "training not known": [
            _some(name, [label for label, trained in of.items() if trained is None], points[name])
            for name, of in untrained.items()
            if None in of.values()
        ],
    }
    return [f"{what}: {', '.join(names)}" for what, names in found.items() if names]


def _some(name: str, labels: Sequence[str], points: Mapping[str, object]) -> str:
    return name if len(labels) == len(points) else f"{name} ({len(labels)} of {len(points)} points)"


def merges_untuned(parameters: Mapping[str, Any]) -> bool:
    """Whether a point is of an image codec (they alone have ``max_side``) and merges without an adapter."""
    merges = parameters.get("merge_to") is not None or parameters.get("n_c") is not None
    return "max_side" in parameters and merges and parameters.get("adapter") is None
