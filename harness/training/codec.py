"""Algorithm 1 from the merged features on, in memory and in one process: any codec, any distortion.

    P patches   C clusters   D dimension

The distortion is :func:`feature_distortion`, or the cross entropy of answers to which y_bar is passed on (Eq. 10).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from harness.tofc.feature_codec import Coded
from harness.tofc.router import temperature_at
from harness.training.fit import Group, fit, learning_rate_factor

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


class StepLosses(NamedTuple):
    """One step's losses: D, R in bits per element of y, the imbalance of Eq. 18 (over alpha), and T."""

    step: int
    distortion: float
    rate: float
    imbalance: float
    temperature: float


class Trainable(Protocol):
    """A codec as :func:`train` uses it, or a stand-in for one."""

    def train(self, mode: bool = True) -> Any:
        """As a module's."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """As a module's."""
        ...

    def scale_parameters(self) -> list[nn.Parameter]:
        """The quantiser's step and offset, where it has any."""
        ...

    def __call__(self, y_PCD: Tensor, temperature: float) -> Coded:
        """The training pass."""
        ...


def parameter_groups(codec: Trainable, recipe: Recipe) -> list[Group]:
    """A codec's own groups: its networks, and its quantiser's step and offset."""
    scale = {f"scale.{number}": p for number, p in enumerate(codec.scale_parameters())}
    networks = [p for p in codec.parameters() if all(p is not s for s in scale.values())]
    groups = [
        Group(
            name="codec",
            parameters={f"codec.{number}": p for number, p in enumerate(networks)},
            rate=recipe.learning_rate,
        ),
        Group(name="step", parameters=scale, rate=recipe.step_learning_rate),
    ]
    return [group for group in groups if group.parameters]


def train(
    codec: Trainable,
    batches: Iterable[tuple[Tensor, Context]],
    distortion: Callable[[Tensor, Context], Tensor],
    recipe: Recipe,
    other_groups: Sequence[Group] = (),
) -> Iterator[StepLosses]:
    """Train in place for at most ``recipe.steps`` batches, yielding after each; freeze() is the caller's, afterwards.

    A batch is merged features ``y_PCD`` and whatever ``distortion`` needs beside their quantised form ``y_bar_PCD``;
    ``other_groups`` are those of parameters outside the codec (LoRA, projector) that y depends on or that the
    distortion passes through. The loss is D + lambda R + L_balance (Algorithm 1, line 14).
    """
    codec.train()
    soft_steps = round((1 - recipe.hard_share) * recipe.steps)
    now: list[StepLosses] = []

    def losses(first: int) -> Iterator[list[Tensor]]:
        for step, (y_PCD, context) in enumerate(batches, first):
            temperature = temperature_at(step / max(1, soft_steps - 1)) if step < soft_steps else 0.0
            coded = codec(y_PCD, temperature)
            loss_d = distortion(coded.y_PCD, context)
            now[:] = [StepLosses(step, loss_d.item(), coded.rate.item(), coded.imbalance.item(), temperature)]
            yield [objective(loss_d, coded.rate, coded.imbalance, recipe.rate_weight, recipe.alpha)]

    taken = fit(
        [*parameter_groups(codec, recipe), *other_groups],
        recipe.steps,
        losses,
        factor=lambda step: learning_rate_factor(step, recipe.steps, recipe.warm_up),
        gradient_norm=recipe.gradient_norm,
    )
    for _ in taken:
        yield now[0]


def objective(distortion: Tensor, rate: Tensor, imbalance: Tensor, rate_weight: float, alpha: float) -> Tensor:
    """D + lambda R + L_balance (Algorithm 1, line 14), R in bits per element of y; L_balance is alpha times Eq. 18."""
    return distortion + rate_weight * rate + alpha * imbalance


def feature_distortion(y_bar_PCD: Tensor, y_PCD: Tensor) -> Tensor:
    """The mean squared error over the mean variance of a channel: 1 for a codec that sends nothing but means."""
    variance_D = y_PCD.flatten(0, 1).var(0).clamp(min=1e-12)
    return ((y_bar_PCD - y_PCD).square() / variance_D.mean()).mean()
