"""The command line with the fake scheme and model, so that a process of it starts in a second."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import catalog, loaded
from harness.cli import main
from harness.data import scoring
from harness.data.questions import samples
from harness.data.sample import Sample
from harness.data.streetsqa import book
from harness.models import files
from harness.schemes.fake import FakeModels

SCENARIO = """
name: fake
title: Fake
benchmark: three_pages
backbone: fake
weights: random
samples: {samples}
pipelines:
  - {{ scheme: fake, name: reference }}
  - {{ scheme: fake, points: [{{ levels: [4, 32] }}] }}
  - {{ scheme: fake_alone, name: alone }}
measure: {{ timed_samples: {timed}, warmup: 1, repeats: {repeats} }}
selection: {{ reference: reference, target: 0.5, margin: 0.4, confidence: 0.8, resamples: 200 }}
replay:
  uplinks: [{{ kind: constant, rate: 25 KB/s }}]
"""


def three_pages(name: str, cache: Path) -> Sequence[Sample]:
    """The questions on three of StreetsQA's pages."""
    return samples(book("test", 0)[:3], paired=False)


_ADDED: tuple[tuple[Any, dict[str, Any]], ...] = (
    (catalog.SCHEMES, {"fake": "harness.schemes.fake:Fake", "fake_alone": "harness.schemes.fake:FakeAlone"}),
    (catalog.BENCHMARKS, {"three_pages": "tests.edge.fake_harness:three_pages"}),
    (files.SOURCES, {"fake": files.SOURCES["mini-llava15"]}),
    (catalog.BACKBONES, {"fake": "harness.schemes.fake:FakeModels"}),
    (scoring._METRICS, {"three_pages": scoring._METRICS["StreetsQA"]}),
)
"""The tables of names are added to, not replaced: the scenario's fields hold them already."""


def patch() -> None:
    """Adds the fakes to the tables of names; they run without torch."""
    for table, added in _ADDED:
        table.update(added)
    loaded.load_models = _load_models


def restore() -> None:
    """Removes the fakes."""
    for table, added in _ADDED:
        for name in added:
            table.pop(name, None)
    loaded.load_models = _LOAD_REAL


def _load_models(stock: Any) -> tuple[Any, str, int]:
    return (FakeModels(), "cpu", 1) if stock.backbone == "fake" else _LOAD_REAL(stock)


_LOAD_REAL = loaded.load_models


if __name__ == "__main__":
    patch()
    main()
