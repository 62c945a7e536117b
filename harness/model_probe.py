"""Finds which parts of models the halves of schemes use, and how many weights these have, without loading any."""

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any

from harness import catalog
from harness.models import files
from harness.models.contract import Part
from harness.models.patches import feature_dim_of
from harness.stock import Stock


def elements_of(stock: Stock) -> int:
    """The weights of all halves of a study, each part of a model once; those that are random are not counted."""
    probe = ModelProbe(stock.backbone, stock.scenario.weights, stock.scenario.max_pixels)
    for scheme, point in stock.points.values():
        for make in (scheme.device_half, scheme.server_half):
            with contextlib.suppress(Exception):  # A contributed scheme may use more of a model than a probe has.
                make(probe, point)
    return sum(probe.parts.values())


class ModelProbe:
    """Stands in for a model, and notes which parts a half uses and how many weights they have."""

    device = "cpu"

    def __init__(
        self, name: str, weights: str | None, max_pixels: int, parts: dict[tuple[str, Part], int] | None = None
    ):
        self.name, self.max_pixels = name, max_pixels
        self._weights = weights
        self.parts: dict[tuple[str, Part], int] = {} if parts is None else parts

    @functools.cached_property
    def _folder(self) -> Path:
        return files.locate(self.name, files.SOURCES[self.name] if self._weights is None else self._weights)

    def vision(self, adapter: Path | None = None) -> Any:  # noqa: ARG002
        """Notes the tower."""
        return self._note("tower")

    def language(self, adapter: Path | None = None, projector: Any = None) -> Any:  # noqa: ARG002
        """Notes the projector and the language model."""
        self._note("projector")
        return self._note("language")

    def fingerprint(self, part: Part) -> str:
        """The fingerprint of the part's files."""
        return files.fingerprint(self._folder, part)

    def smaller(self, name: str | None = None, weights: str | None = None) -> "ModelProbe":
        """The smaller model that runs on a device, noted in the same place."""
        return ModelProbe(catalog.smaller(self.name, name), weights, self.max_pixels, self.parts)

    def _note(self, part: Part) -> "_Side":
        if self._weights == "random" or self.name not in catalog.BACKBONES:
            self.parts[self.name, part] = 0
            return _Side(self.name, 0)
        self.parts[self.name, part] = files.elements(self._folder, part)
        return _Side(self.name, feature_dim_of(self.name, self._weights))


@dataclasses.dataclass(frozen=True)
class _Side:
    """What halves read of a vision or language side while they are made; they are not run."""

    name: str
    feature_dim: int
    device: str = "cpu"
    n_features: int = 2**16

    def max_patches(self, max_pixels: int) -> int:  # noqa: ARG002
        """One: the limit of payloads does not affect the memory of weights."""
        return 1
