"""Makes ``import torchvision`` work beside a build of torch that it was not compiled for.

torchvision's wheels are linked against CUDA. Beside a CPU build of torch their extension does not load, the import then
fails at ``torchvision::nms``, and with it every import of the LLaVA classes of transformers and of compressai. Neither
calls the operator: declaring its schema is enough. Whoever imports one of them imports this module first.
"""

import importlib.metadata
import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _extension_loads() -> bool:
    """Whether torchvision's compiled operators load into this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    for extension in Path(spec.origin).parent.glob("_C*.*"):
        try:
            torch.ops.load_library(str(extension))  # type: ignore[no-untyped-call]
        except OSError:
            return False
    return True


def declare_missing() -> torch.library.Library | None:
    """Declares the operators where they are missing; returns the library to keep alive, or None if none is missing."""
    if hasattr(torch.ops.torchvision, "nms") or _extension_loads():
        return None
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


LIBRARY = declare_missing()
"""Kept for the life of the process: the declarations are removed with it."""
