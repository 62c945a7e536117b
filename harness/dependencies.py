"""What rows depend on: the digests of a sample, of a scheme at a point, and of a model.

Nothing is loaded; files are read for their digests.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness import catalog
from harness.data.sample import Sample
from harness.errors import SchemeError, shown
from harness.models import files
from harness.models.contract import Backbone
from harness.runs import digests
from harness.runs.own_code import of_own_code
from harness.schemes.contract import OperatingPoint, Scheme


def of_sample(sample: Sample) -> str:
    """The digest of a sample: its pictures, its question, its answer, and what it counts with."""
    question = dataclasses.asdict(sample.question)
    return digests.of_data([sample.image_id, question, sample.truth, sample.category, sample.group])


def of_scheme(name: str, scheme: type[Scheme], backbone: str, point: OperatingPoint) -> dict[str, str]:
    """The digests of a point: of its scheme, of its parameters, and of the files and further models that they name."""
    found = {f"parameters of {scheme.kind} at {point.label}": digests.of_data(point.model_dump(mode="json"))}
    if named := getattr(scheme, "files", None):
        found |= {what: digests.of_file(Path(path)) for what, path in _mapping(name, named, backbone, point).items()}
    found |= _own_code(scheme, catalog.module_of("scheme", name, catalog.SCHEMES))
    if others := getattr(scheme, "other_models", None):
        # None are a model's usual weights.
        for other, weights in _mapping(name, others, backbone, point, or_none=True).items():
            found |= of_model(other, weights)
    return found


def of_model(name: str, weights: str | None) -> dict[str, str]:
    """The fingerprint of each part of a model, and a digest of the files that say how it is run.

    Raises UnavailableError if it is not installed.
    """
    if name not in catalog.BACKBONES:
        backbone: Backbone = catalog.load("backbone", name, catalog.BACKBONES)
        own = _own_code(backbone, catalog.module_of("backbone", name, catalog.BACKBONES))
        return {
            f"{part} of {name}": str(digest) for part, digest in _mapping(name, backbone.digests, weights).items()
        } | own
    if weights == "random":
        return {f"model {name}": weights}
    folder = files.locate(name, files.SOURCES[name] if weights is None else weights)
    found = {f"{part} of {name}": files.fingerprint(folder, part) for part in files.PARTS}
    if not folder.is_relative_to(catalog.ZOO):  # The bundled models' own come with the code.
        said = {file: digests.of_file(folder / file) for file in files.SETTINGS if (folder / file).is_file()}
        found[f"settings of {name}"] = digests.of_data(said)
    return found


def _mapping(name: str, method: Callable[..., Any], *given: object, or_none: bool = False) -> Mapping[str, Any]:
    """The mapping that a method of a user's own scheme or backbone gives; raises SchemeError where it gives none.

    A value is None only where the contract says what that means (``or_none``).
    """
    made = method(*given)
    if not isinstance(made, Mapping) or (None in made.values() and not or_none):
        raise SchemeError(
            f"{name}: {method.__name__} returned {shown(made)}; a dict with a value for each name is expected"
        )
    return made


def _own_code(thing: object, named: str | None) -> dict[str, str]:
    """The digests of the code of a user's own scheme or backbone: of its module, and of the one that ``named`` it."""
    modules = [getattr(thing, "__module__", type(thing).__module__), *([named] if named else [])]
    return of_own_code(modules)
