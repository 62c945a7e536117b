"""A training's configuration, complete before the first step."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from harness import catalog
from harness.errors import ScenarioError, unknown_name
from harness.scenario.explain import NestedError
from harness.scenario.fields import BackboneName, Frozen, Slug
from harness.tofc.manifest import MERGING
from harness.tofc.router import COLD, HOT


def _words(value: Any) -> Any:
    """YAML reads a bare ``no`` as false."""
    return "no" if value is False else value


Precision = Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(_words)]


Stage = Literal["whole", "codec", "merging"]


def reduces(scheme: str) -> Any:
    """The scheme of that name, whose ``new_reducer`` makes the reducer; raises ValueError for another."""
    try:
        found = catalog.load("scheme", scheme, catalog.SCHEMES)
    except ScenarioError as error:
        raise ValueError(str(error)) from None
    if not hasattr(found, "new_reducer"):
        raise ValueError(f"{scheme} reduces no features; tofc, visionzip or qformer do, for example")
    return found


def merges(scheme: str) -> bool:
    """Whether a scheme's reduction is the paper's merging; several ablations' is."""
    return bool(getattr(reduces(scheme), "method", MERGING) == MERGING)


def learns_reducer(scheme: str) -> bool:
    """Whether a scheme's reducer has weights of its own."""
    return bool(getattr(reduces(scheme), "learned", False))


class Temperature(Frozen):
    """The softmax temperature of Eq. 17, falling exponentially from ``start`` to ``end`` over the joint training.

    The defaults are V-A2's. A pre-fit, before it, is at ``start``; without a joint training T falls over the pre-fit.
    The last ``hard_share``, an addition to the paper, has one model a feature, as inference has: at T = 0.1 a mixture
    still averages several models' roundings, which no stream can.
    """

    start: float = Field(default=HOT, gt=0)
    end: float = Field(default=COLD, gt=0)
    hard_share: float = Field(default=0.0, ge=0, lt=1)


class Codec(Frozen):
    """The sizes of the codec: n_e, and the hidden widths of h_a ((D, D/2) where they are not given).

    ``step`` is that of the quantiser: ``one`` rounds y to integers as the paper does, where only the tower's adapter
    can change its scale; ``fixed`` rounds it in units of half a channel's initial deviation, for features whose scale
    is far from 1; ``learned`` starts like that, and learns step and offset of each channel. ``keep_networks`` stores in
    the codec's file what only further training needs, half of the file or more. ``scheme`` names an ablation whose
    entropy coding is trained in TOFC's place (Fig. 12), ``bits`` is the heuristic one's length.
    """

    scheme: Literal["tofc", "tofc_factorized", "tofc_heuristic"] = "tofc"
    bits: int | None = Field(default=None, ge=2, le=15)
    experts: int = Field(default=16, ge=1, le=64)
    hidden: tuple[Annotated[int, Field(ge=1, le=2**16)], ...] = Field(default=(), max_length=4, strict=False)
    step: Literal["one", "fixed", "learned"] = "learned"
    keep_networks: bool = True

    @model_validator(mode="after")
    def _bits_are_the_heuristics(self) -> Self:
        if (self.bits is None) == (self.scheme == "tofc_heuristic"):
            raise ValueError("bits: tofc_heuristic needs a bit length, such as 4, and no other scheme takes one")
        return self


class Lora(Frozen):
    """LoRA on vision tower and language model; the projector is then trained whole. Rank 0: the backbone is frozen."""

    rank: int = Field(default=64, ge=0, le=1024)
    alpha: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)


class LearningRates(Frozen):
    """Peak learning rates; ``codec`` is a learned reducer's too, ``step`` that of the quantiser's step and offset."""

    language: float = Field(default=1e-5, ge=0)
    vision: float = Field(default=2e-6, ge=0)
    projector: float = Field(default=1e-5, ge=0)
    codec: float = Field(default=1e-3, ge=0)
    step: float = Field(default=5e-3, ge=0)


class Prefit(Frozen):
    """Steps that train only the codec before the joint training, on the cached merged features of ``pictures``
    pictures.

    An addition to the paper: far cheaper a step than the joint training. ``distortion`` is that of the answers (Eq. 10,
    through the frozen projector and language model) or the squared error of the features over their variance, which
    needs a ``lambda`` of its own: the joint training's weighs bits against cross entropy. ``batch`` is over all
    processes. ``cache`` is a folder in which the features are cached, for other trainings and for this one if it is
    stopped while they are made.
    """

    steps: int = Field(default=0, ge=0)
    pictures: int = Field(default=512, ge=1)
    batch: int = Field(default=8, ge=1)
    distortion: Literal["answers", "features"] = "answers"
    rate_weight: float | None = Field(default=None, alias="lambda", gt=0)
    cache: str | None = None

    @model_validator(mode="after")
    def _lambda_has_one_meaning(self) -> Self:
        if self.steps and self.distortion == "features" and self.rate_weight is None:
            raise ValueError(
                "distortion: features needs a lambda of its own in the pre-fit, such as 'lambda: 0.05': the joint "
                "training's weighs bits against the answers' cross entropy, not against squared error"
            )
        return self


class TrainingConfig(Frozen):
    """Algorithm 1 with all its numbers, or one stage of it.

    With ``steps: 0`` and no adapter the pre-fit is all: a *codec only*, its temperature falling over the pre-fit. With
    ``codec: null`` there is no codec: adapter and projector are tuned for merged features with only the distortion as
    the loss, as the paper does for its baselines (V-A3) and for Table I, where ``scheme`` names the reduction that
    replaces merging. ``harness train --stage`` makes either of a whole configuration.

    ``batch`` examples make a step, ``micro_batch`` of them at once on a process; how many micro-batches are accumulated
    follows from the number of processes, so that a recipe is the same on one accelerator and on eight. ``clusters`` are
    the n_c, one drawn each step where there are several. ``held_out`` examples with pictures are excluded from
    training, and measured at its end.
    """

    name: Slug
    backbone: BackboneName
    weights: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    data: dict[str, Any]
    clusters: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1, strict=False)
    scheme: str = MERGING
    rate_weight: float | None = Field(default=None, alias="lambda", gt=0)
    alpha: float = Field(default=1e-3, ge=0)
    temperature: Temperature = Temperature()
    codec: Codec | None = Codec()
    lora: Lora = Lora()
    learning_rates: LearningRates = LearningRates()
    prefit: Prefit = Prefit()
    batch: int = Field(ge=1)
    micro_batch: int = Field(default=1, ge=1)
    steps: int | None = Field(default=None, ge=0)
    epochs: float | None = Field(default=None, gt=0)
    warm_up: float = Field(default=0.03, ge=0, lt=1)
    gradient_norm: float = Field(default=1.0, gt=0)
    precision: Precision = "bf16"
    gradient_checkpointing: bool = False
    max_tokens: int = Field(default=2048, ge=16)
    held_out: int = Field(default=24, ge=1)
    log_every: int = Field(default=10, ge=1)
    save_every: int = Field(default=200, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    threads: int | None = Field(default=None, ge=1)
    workers: int = Field(default=0, ge=0)
    out: str

    @field_validator("data")
    @classmethod
    def _data_are_of_their_kind(cls, data: dict[str, Any]) -> dict[str, Any]:
        kind = str(data.get("kind"))
        if kind not in catalog.TRAINING_DATA:
            raise ValueError(unknown_name("kind of training data", kind, catalog.TRAINING_DATA))
        try:
            catalog.load("kind of training data", kind, catalog.TRAINING_DATA).Config.model_validate(data)
        except ValidationError as error:
            raise NestedError((), error) from None
        return data

    @field_validator("scheme")
    @classmethod
    def _scheme_reduces(cls, scheme: str) -> str:
        reduces(scheme)
        return scheme

    @model_validator(mode="after")
    def _there_is_something_to_do(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give the length of the training either as 'steps' or as 'epochs'")
        if self.steps == 0 and self.prefit.steps == 0:
            raise ValueError("steps and prefit.steps are both 0; set one of them, for only a codec prefit.steps")
        if self.steps == 0 and self.lora.rank > 0:
            raise ValueError("lora.rank is above 0, but steps is 0: an adapter is trained only in the joint training")
        if self.batch % self.micro_batch:
            raise ValueError(f"batch is {self.batch}; it must be a multiple of micro_batch, {self.micro_batch}")
        return self

    @model_validator(mode="after")
    def _a_codec_or_none(self) -> Self:
        if self.codec is None:
            if self.prefit.steps:
                raise ValueError("codec is null, but prefit.steps is above 0: a pre-fit trains only a codec")
            if not self.lora.rank:
                raise ValueError("codec is null, and lora.rank is 0: there is nothing to train")
            return self
        if self.rate_weight is None:
            raise ValueError("lambda: is missing; it weighs bits against the distortion, such as 'lambda: 0.01'")
        if self.scheme != MERGING:
            raise ValueError(
                f"scheme is {self.scheme}, whose reduction is trained with only the distortion: 'codec: null', or "
                "--stage merging"
            )
        return self

    @model_validator(mode="after")
    def _questions_where_they_are_asked(self) -> Self:
        kind = self.data["kind"]
        asks = catalog.load("kind of training data", kind, catalog.TRAINING_DATA).asks
        needed = [] if self.stage == "codec" else ["--stage codec"]
        if self.prefit.distortion == "answers":
            needed.append("prefit.distortion: features")
            needed += ["prefit.lambda, such as 0.05"] if self.prefit.rate_weight is None else []
        needed += [] if self.prefit.steps else ["prefit.steps above 0"]
        if not asks and needed:
            raise ValueError(
                f"data: {kind} have no questions and can train only a codec, which needs {', '.join(needed)}"
            )
        return self

    @property
    def stage(self) -> Stage:
        """What is trained: all of Algorithm 1, only the codec, or adapter and projector without a codec."""
        if self.codec is None:
            return "merging"
        return "codec" if self.steps == 0 else "whole"

    @property
    def prefit_rate_weight(self) -> float:
        """Lambda of the pre-fit: its own, or the joint training's."""
        return self.prefit.rate_weight or self.rate_weight or 0.0

    def data_config(self) -> Any:
        """``data`` as its kind's own model."""
        return catalog.load("kind of training data", self.data["kind"], catalog.TRAINING_DATA).Config(**self.data)
