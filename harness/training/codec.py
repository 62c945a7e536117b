"""Algorithm 1 from the merged features on: one loop for the pre-fit on frozen features and for the whole model.

    P patches   C clusters   D dimension

What varies is the distortion. A pre-fit takes :func:`feature_distortion`, on features that were merged once and kept;
the whole training passes y_bar through projector and language model and takes the cross-entropy of the answer (Eq. 10).
The pre-fit is an addition to the paper: it starts the entropy models, router and step near where the joint training,
which is far dearer a step, will end.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from harness.tofc.codec import TofcCodec
from harness.tofc.feature_codec import Coded
from harness.tofc.router import temperature_at

Context = TypeVar("Context")


class Recipe(BaseModel):
    """The hyper-parameters of Algorithm 1; alpha and the temperature's ends are the paper's (V-A2).

    Hard steps at the end are an addition to the paper: at T = 0.1 a mixture still averages several models' roundings,
    which no stream can; these steps, at the cost of one model instead of all, fit the models, the quantiser's step and
    all that follows to what is decoded at inference.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_weight: float = Field(gt=0, description="lambda of Eq. 9, against the rate in bits per element of y")
    steps: int = Field(ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    step_learning_rate: float = Field(default=5e-3, gt=0, description="of the quantiser's step and offset")
    hard_share: float = Field(default=0.0, ge=0, lt=1, description="of the steps, at the end, with one model a feature")
    alpha: float = Field(default=1e-3, ge=0, description="weight of the balance loss, Eq. 18")
    gradient_norm: float = Field(default=1.0, gt=0)
    warm_up: float = Field(default=0.03, ge=0, lt=1)


class Progress(NamedTuple):
    """One step's losses: D, R in bits per element of y, the imbalance of Eq. 18 (over alpha), and T."""

    step: int
    distortion: float
    rate: float
    imbalance: float
    temperature: float


def learning_rate_factor(step: int, steps: int, warm_up: float) -> float:
    """A linear rise over the share ``warm_up`` of the steps, then half a cosine to zero; in 0..1."""
    rising = round(warm_up * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / max(1, steps - rising))


class Trainable(Protocol):
    """A codec as :func:`train` sees it, or what stands in the place of one."""

    def train(self, mode: bool = True) -> Any:
        """As a module's."""
        ...

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """As a module's."""
        ...

    def scale_parameters(self) -> list[torch.nn.Parameter]:
        """The quantiser's step and offset, where it has any."""
        ...

    def __call__(self, y_PCD: Tensor, temperature: float) -> Coded:
        """The training pass."""
        ...


def parameter_groups(codec: Trainable, recipe: Recipe) -> list[dict[str, Any]]:
    """The optimiser's groups for a codec, apart from any others: its networks, and its quantiser's step and offset."""
    scale = codec.scale_parameters()
    networks = [p for p in codec.parameters() if all(p is not s for s in scale)]
    groups = [
        {"params": networks, "lr": recipe.learning_rate},
        {"params": scale, "lr": recipe.step_learning_rate},
    ]
    return [group for group in groups if group["params"]]


def train(
    codec: Trainable,
    batches: Iterable[tuple[Tensor, Context]],
    distortion: Callable[[Tensor, Context], Tensor],
    recipe: Recipe,
    other_groups: Iterable[dict[str, Any]] = (),
) -> Iterator[Progress]:
    """Train in place for at most ``recipe.steps`` batches, yielding after each; freeze() is the caller's, afterwards.

    A batch is merged features ``y_PCD`` and whatever ``distortion`` needs beside their quantised form ``y_bar_PCD``;
    ``other_groups`` are the optimiser's groups of parameters outside the codec (LoRA, projector) that y depends on or
    that the distortion passes through. The loss is D + lambda R + L_balance (Algorithm 1, line 14).
    """
    codec.train()
    groups = [*parameter_groups(codec, recipe), *other_groups]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, recipe.steps, recipe.warm_up)
    )
    soft_steps = round((1 - recipe.hard_share) * recipe.steps)
    parameters = [p for group in groups for p in group["params"]]
    for step, (y_PCD, context) in zip(range(recipe.steps), batches, strict=False):
        soft = step < soft_steps
        temperature = temperature_at(step / max(1, soft_steps - 1)) if soft else 0.0
        coded = codec(y_PCD, temperature)
        loss_d = distortion(coded.y_PCD, context)
        loss = loss_d + recipe.rate_weight * coded.rate + recipe.alpha * coded.imbalance
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, recipe.gradient_norm)
        optimiser.step()
        schedule.step()
        yield Progress(step, loss_d.item(), coded.rate.item(), coded.imbalance.item(), temperature)


def feature_distortion(y_bar_PCD: Tensor, y_PCD: Tensor) -> Tensor:
    """The mean squared error over the mean variance of a channel: 1 for a codec that sends nothing but means."""
    variance_D = y_PCD.flatten(0, 1).var(0).clamp(min=1e-12)
    return ((y_bar_PCD - y_PCD).square() / variance_D.mean()).mean()


def shuffled(y_MCD: Tensor, patches: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of ``patches`` kept patches with themselves as context, reshuffled every epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for chosen in torch.split(torch.randperm(len(y_MCD), generator=generator), patches):
            yield y_MCD[chosen], y_MCD[chosen]


class RateDistortion(NamedTuple):
    """What real streams cost and lose: bytes an image, distortion, z's share of the bits, features of each expert."""

    bytes_per_image: float
    distortion: float
    z_share: float
    expert_use: tuple[int, ...]


def measure(codec: TofcCodec, images: Iterable[Tensor]) -> RateDistortion:
    """Compress and decompress every image's merged features (P, C, D) and average over the images."""
    n_images, total_bits, z_bits = 0, 0, 0
    kept: list[Tensor] = []
    returned: list[Tensor] = []
    use_E = torch.zeros(codec.config.n_experts, dtype=torch.int64)
    for y_PCD in images:
        decoded = codec.decompress(codec.compress(y_PCD), limits=None)
        n_images += 1
        total_bits += decoded.budget.total_bits
        z_bits += decoded.budget.z_bits
        use_E += decoded.expert_PC.flatten().bincount(minlength=len(use_E))
        kept.append(y_PCD)
        returned.append(decoded.y_PCD)
    loss = feature_distortion(torch.cat(returned), torch.cat(kept)).item()
    return RateDistortion(total_bits / 8 / n_images, loss, z_bits / total_bits, tuple(use_E.tolist()))
