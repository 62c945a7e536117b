"""The first stage: a vision tower that learns what each of its features covers.

The last hidden state, before the tower's last norm, is what a backbone hands to its projector and what is merged. All
that is asked of it is linear in it: the kind of thing that a feature covers, that thing's attribute, its place in the
tile, and that background lies close together while things lie far from it, so that density peaks become clusters of
their own.

    B tiles   V features a tile   D dimension
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import CLIPVisionModel, SiglipVisionModel

from harness.data.drawing import things
from harness.models.tower import features
from recipes.stages import train
from recipes.views import CLASS_NAMES, ONEVISION, Sight, TileBatches

Tower = SiglipVisionModel | CLIPVisionModel

STEPS, DETAILS_STEPS = 3000, 1800
TILES_A_STEP = 16
_RATE, _DETAILS_RATE = 1.2e-3, 1e-3

_BACKGROUND_WEIGHT = 0.15
_PLACE_WEIGHT = 0.1
_COMPACT_WEIGHT = 0.1

_SPREAD = 0.03
"""The standard deviation that the features are scaled to.

The logarithm of Eq. 2's density falls with the square of distance: among features spread as wide as training leaves
them only the densest, background, become centres. Scaled down to this, isolated things do.
"""

KINDS = ("background", "light", "sign", "car", "bus", "coat", *things.ITEMS)
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "lamp": tuple(f"light {lamp} " for lamp in things.LAMPS),
    "arrow": tuple(f" {arrow}" for arrow in things.ARROWS),
    "number": tuple(f"sign {number}" for number in things.NUMBERS),
    "paint": tuple(f" {paint}" for paint in things.PAINTS),
    "side": tuple(f" {side}" for side in things.SIDES),
}
"""For each attribute its values, written as a class's name holds them."""

_OWNERS: Mapping[str, tuple[str, ...]] = {
    "lamp": ("light",),
    "arrow": ("light",),
    "number": ("sign",),
    "paint": ("car", "bus", "coat"),
    "side": things.ITEMS,
}


def _value(attribute: str, name: str) -> int:
    """Which value of the attribute a class has, -1 where it has none."""
    if KINDS[_kind(name)] not in _OWNERS[attribute]:
        return -1
    fits = [index for index, value in enumerate(ATTRIBUTES[attribute]) if _holds(name, value, attribute)]
    return fits[-1]


def _holds(name: str, value: str, attribute: str) -> bool:
    if attribute == "lamp":
        return name.startswith(value) and name.removeprefix(value) in things.ARROWS
    return name.endswith(value)


def _kind(name: str) -> int:
    return next(index for index, kind in enumerate(KINDS) if name == kind or name.startswith(f"{kind} "))


_KIND_OF_CLASS = torch.tensor([_kind(name) for name in CLASS_NAMES])
_VALUE_OF_CLASS = {a: torch.tensor([_value(a, name) for name in CLASS_NAMES]) for a in ATTRIBUTES}


class Probe(nn.Module):
    """Linear maps from a feature to its kind, its attributes, and its row and column in the tile."""

    def __init__(self, dimension: int, side: int) -> None:
        super().__init__()
        self.kind = nn.Linear(dimension, len(KINDS))
        self.attributes = nn.ModuleDict({name: nn.Linear(dimension, len(v)) for name, v in ATTRIBUTES.items()})
        self.place = nn.Linear(dimension, 2 * side)


class ProbedTower(nn.Module):
    """The tower and what probes it."""

    def __init__(self, tower: Tower, sight: Sight = ONEVISION) -> None:
        super().__init__()
        self.tower = tower
        self.side = sight.side
        self.probe = Probe(tower.config.hidden_size, sight.side)

    def loss(self, x_BVD: Tensor, class_BV: Tensor) -> tuple[Tensor, float]:
        """The stage's loss, and the share of right attributes, averaged over the attributes."""
        x, target = x_BVD.flatten(0, 1), class_BV.flatten()
        thing = target > 0
        weight = torch.ones(len(KINDS))
        weight[0] = _BACKGROUND_WEIGHT
        loss = cross_entropy(self.probe.kind(x), _KIND_OF_CLASS[target], weight)
        shares = []
        for attribute, values in _VALUE_OF_CLASS.items():
            has = values[target] >= 0
            if not has.any():
                continue
            logits, wanted = self.probe.attributes[attribute](x[has]), values[target[has]]
            loss = loss + cross_entropy(logits, wanted)
            shares.append(float((logits.argmax(-1) == wanted).float().mean()))
        place = torch.arange(len(target))[thing] % self.side**2
        row, column = self.probe.place(x[thing]).chunk(2, -1)
        loss = loss + _PLACE_WEIGHT * (
            cross_entropy(row, place // self.side) + cross_entropy(column, place % self.side)
        )
        centre = x[~thing].mean(0)
        spread = (x[~thing] - centre).square().sum(-1).mean() / (x[thing] - centre).square().sum(-1).mean()
        return loss + _COMPACT_WEIGHT * spread, sum(shares) / len(shares)


def encode(tower: Tower, pixels_BCHW: Tensor, sight: Sight = ONEVISION) -> Tensor:
    """The features (B, V, D) that a backbone hands on, float32, computed in bfloat16; differentiable."""
    with torch.autocast("cpu", torch.bfloat16):
        return features(tower, pixels_BCHW, sight.layer, drop_cls=sight.drop_cls).float()


def train_tower(
    tower: Tower,
    folder: Path,
    steps: tuple[int, int] = (STEPS, DETAILS_STEPS),
    *,
    sight: Sight = ONEVISION,
    tiles: int = TILES_A_STEP,
    rates: tuple[float, float] = (_RATE, _DETAILS_RATE),
) -> None:
    """Train the tower in place on training scenes, then scale its features to a spread at which things become centres.

    A tower learns digits and arrows last: the second part of the training shows it the things that carry them.
    """
    stage = ProbedTower(tower, sight)

    def losses(first: int, details: bool) -> Iterator[tuple[Tensor, float]]:
        batches = TileBatches(tiles, first, details=details, sight=sight)
        loader = torch.utils.data.DataLoader(
            batches, batch_size=None, num_workers=1, prefetch_factor=8, multiprocessing_context="fork"
        )
        for pixels, classes in loader:
            yield stage.loss(encode(tower, pixels, sight), classes)

    train("tower", folder, stage, {"": rates[0]}, steps[0], lambda first: losses(first, False))
    train("details", folder, stage, {"": rates[1]}, steps[1], lambda first: losses(first, True))
    pixels, _ = next(iter(TileBatches(8 * tiles, sum(steps), sight=sight)))
    with torch.inference_mode():
        spread = float(encode(tower, pixels, sight).std())
    scale(tower, _SPREAD / spread)


@torch.no_grad()
def scale(tower: Tower, factor: float) -> None:
    """Multiply the features by ``factor``: all that is added to the residual stream grows by it.

    What the layers read is normalised, and so stays as it was but for the constant in the norms' denominators. CLIP's
    stream begins with a norm, SigLIP's with its embeddings.
    """
    body: Any = getattr(tower, "vision_model", tower)
    first = (body.pre_layrnorm,) if hasattr(body, "pre_layrnorm") else tuple(body.embeddings.children())
    added: list[nn.Module] = list(first)
    for layer in body.encoder.layers:
        added += [layer.self_attn.out_proj, layer.mlp.fc2]
    for module in added:
        for parameter in module.parameters():
            parameter.mul_(factor)
