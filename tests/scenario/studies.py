"""A scenario without a mistake, as data, to be changed."""

from typing import Any

GOOD: dict[str, Any] = {
    "name": "a-study",
    "title": "A study",
    "benchmark": "RealWorldQA",
    "backbone": "llava-onevision-7b",
    "stand_in": {"benchmark": "StreetsQA", "backbone": "mini-onevision"},
    "pipelines": [
        {"scheme": "server_only"},
        {"scheme": "jpeg", "points": [{"quality": [10, 50], "merge_to": 0.044}]},
    ],
    "replay": {"uplinks": [{"kind": "constant", "rate": "25 KB/s"}]},
}


def with_pipeline(pipeline: dict[str, Any]) -> dict[str, Any]:
    """The scenario with a pipeline in the place of JPEG's."""
    return {**GOOD, "pipelines": [{"scheme": "server_only"}, pipeline]}
