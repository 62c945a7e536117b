"""Trains every ablation of mini-onevision: ``python -m recipes.ablations``.

All points of a group have one budget, counted in steps and in samples: the same pictures and questions, the same steps,
the same learning rates. Nothing has a pre-fit.

Fig. 12 (:func:`train_point`): codec and projector by D + lambda R + L_balance (Algorithm 1) on features merged once;
tower and language model stay frozen, where the paper adapts them with LoRA. Table I (:func:`train_reduced`): LoRA
on tower and language model, the projector and, where it is learned, the reducer, by the distortion alone at one n_c.

    P patches   V features a patch   C features that are kept   D dimension
"""

import argparse
import copy
import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.ablations.schemes import (
    DISTORTION,
    FIG_12_CLUSTERS,
    TABLE_1_CLUSTERS,
    WEIGHTS,
    Ablation,
    Factorized,
    Heuristic,
    QFormerQueries,
    Selective,
    Single,
    Unmerged,
    VisionZipDominant,
    VisionZipMerging,
)
from baselines.ablations.trained import Adapted, LearnedReducer, Trained, trained_around
from baselines.ablations.uncoded import HalfPrecision
from harness.catalog import ZOO
from harness.cli import guarded
from harness.data import streetsqa
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.questions import LabelledQuestion, Page
from harness.models import adapter, tower
from harness.models.contract import Attention, Tiles
from harness.models.llava import Llava
from harness.models.onevision import load
from harness.runs import disk
from harness.tofc.merging import merge
from harness.tofc.trained import CODEC
from harness.training.bundled import answer_loss, book_of, questions
from harness.training.codec import Recipe, StepLosses, feature_distortion, train
from harness.training.fit import Group

BACKBONE = "mini-onevision"
CLUSTERS = FIG_12_CLUSTERS
"""The n_c of Fig. 12's lessons in turn."""
FIRST_BOOK, PICTURES = 300_000, 576
"""Training books from which neither the backbone nor TOFC's codecs learned."""
_HELD_OUT = 24

_LEARNED = ("lambda-0.05", "lambda-0.2", "lambda-0.8")
FIG_12: Mapping[type[Ablation], Sequence[str]] = {
    Selective: _LEARNED,
    Single: _LEARNED,
    Factorized: _LEARNED,
    Heuristic: ("bits-3", "bits-4", "bits-5"),
}
"""The points of each scheme; lambda weighs the rate in bits per element of y, as in Eq. 9."""
TABLE_1 = (Single, Unmerged, VisionZipDominant, VisionZipMerging, QFormerQueries)
"""The schemes whose merging is compared; the first one's is TOFC's."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every point of a group may spend: steps, and the pictures of each with their questions; and the rates."""

    steps: int
    pictures: int
    asked: int
    rate: float
    projector_rate: float
    step_rate: float = 2e-2
    language_rate: float = 0.0
    vision_rate: float = 0.0
    hard_share: float = 0.25
    alpha: float = 1.0


OF_FIG_12 = Budget(steps=300, pictures=8, asked=6, rate=2e-3, projector_rate=5e-4)
OF_TABLE_1 = Budget(
    steps=150, pictures=4, asked=6, rate=2e-3, projector_rate=3e-4, language_rate=1e-4, vision_rate=2e-5
)
_RANK, _LORA_ALPHA = 8, 16


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A page, and its picture: merged features (P, C, D) for Fig. 12, pixels (P, 3, p, p) in half for Table I."""

    page: Page
    seen: Tensor


def merged_lessons(backbone: Llava, pages: Sequence[Page]) -> list[Lesson]:
    """Pages with their merged features, at the n_c of :data:`CLUSTERS` in turn."""
    found = []
    for number, page in enumerate(pages):
        x_PVD = backbone.encode(backbone.preprocess(page.scene().image))
        found.append(Lesson(page, merge(x_PVD.float(), CLUSTERS[number % len(CLUSTERS)]).y_PCD.clone()))
        if (number + 1) % 50 == 0:
            print(f"pictures: {number + 1} of {len(pages)}", flush=True)
    return found


def drawn_lessons(backbone: Llava, pages: Sequence[Page]) -> list[Lesson]:
    """Pages with the pixels of their tiles."""
    return [Lesson(page, backbone.preprocess(page.scene().image).pixels_PCHW.half()) for page in pages]


class _Lessons:
    """What all points of a group are trained on: the same draws of pages and questions, whatever they make of them."""

    def __init__(self, lessons: Sequence[Lesson], budget: Budget, seed: int) -> None:
        self._lessons, self._budget = lessons, budget
        self._pages, self._asking = (
            SeededRandom("ablations", "answers", seed),
            SeededRandom("ablations", "questions", seed),
        )

    def batches(self, features: Callable[[Lesson], Tensor]) -> Iterator[tuple[Tensor, tuple[Any, list[int]]]]:
        """Endless batches: all features (1, N, D), what is asked about each picture, and how many features it has."""
        while True:
            drawn = [self._pages.pick(self._lessons) for _ in range(self._budget.pictures)]
            of_pictures = [features(lesson).flatten(0, 1) for lesson in drawn]
            asked = [self._asking.shuffled(questions(one.page, self._asking))[: self._budget.asked] for one in drawn]
            yield torch.cat(of_pictures)[None], (asked, [len(y_ND) for y_ND in of_pictures])


def _of_answers(backbone: Llava, projector: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Any], Tensor]:
    def distortion(y_bar_1ND: Tensor, context: tuple[list[Sequence[LabelledQuestion]], list[int]]) -> Tensor:
        asked, sizes = context
        pictures = [projector(y_ND) for y_ND in torch.split(y_bar_1ND[0], sizes)]
        return answer_loss(backbone.model, backbone.tokenizer, pictures, asked)[0]

    return distortion


def train_point(
    backbone: Llava,
    lessons: Sequence[Lesson],
    scheme: type[Ablation],
    point: str,
    budget: Budget = OF_FIG_12,
    seed: int = 0,
) -> Trained:
    """A point of Fig. 12, frozen to integers."""
    torch.manual_seed(seed)
    codec = scheme.new_codec(backbone.feature_dim, point)
    everything_1ND = torch.cat([lesson.seen.flatten(0, 1) for lesson in lessons])[None]
    codec.fit_scale(everything_1ND)
    projector: Any = copy.deepcopy(backbone.projector).float().requires_grad_(True)
    recipe = Recipe(
        rate_weight=rate_weight(point),
        steps=budget.steps,
        learning_rate=budget.rate,
        step_learning_rate=budget.step_rate,
        hard_share=budget.hard_share,
        alpha=budget.alpha,
    )
    batches = _Lessons(lessons, budget, seed).batches(lambda lesson: lesson.seen)
    others = [Group(name="projector", parameters=dict(projector.named_parameters()), rate=budget.projector_rate)]
    _say(train(codec, batches, _of_answers(backbone, projector), recipe, others), f"{scheme.kind} {point}")
    codec.eval()
    codec.freeze(everything_1ND)
    return Trained(codec, projector)


def train_reduced(
    backbone: Llava, lessons: Sequence[Lesson], scheme: type[Ablation], budget: Budget = OF_TABLE_1, seed: int = 0
) -> Adapted:
    """A point of Table I; ``backbone`` is changed: LoRA is put into it."""
    torch.manual_seed(seed)
    reducer: Any = scheme.new_reducer(backbone.feature_dim, TABLE_1_CLUSTERS)
    learned: LearnedReducer | None = reducer if isinstance(reducer, LearnedReducer) else None
    if learned is not None:
        learned.fit_scale(
            torch.cat([_encoded(backbone, lesson, attended=False)[0].detach() for lesson in lessons[:24]])
        )
    torch.manual_seed(seed)
    peft = adapter.attach(backbone, _RANK, _LORA_ALPHA, 0.0)
    rates = {"language": budget.language_rate, "vision": budget.vision_rate, "projector": budget.projector_rate}
    parts: dict[str, dict[str, Any]] = {part: {} for part in rates}
    for name, parameter in adapter.trainable(peft).items():
        parts[adapter.part_of(name)][name] = parameter
    others = [Group(name=part, parameters=parameters, rate=rates[part]) for part, parameters in parts.items()]
    if learned is not None:
        others.append(Group(name="reducer", parameters=dict(learned.named_parameters()), rate=budget.rate))

    def features(lesson: Lesson) -> Tensor:
        x_PVD, attention = _encoded(backbone, lesson, attended=reducer.attended)
        y_PCD: Tensor = reducer(x_PVD, TABLE_1_CLUSTERS, attention)
        return y_PCD

    batches = _Lessons(lessons, budget, seed).batches(features)
    # No bits are counted, and so lambda weighs nothing.
    recipe = Recipe(rate_weight=1.0, steps=budget.steps)
    distortion = _of_answers(backbone, lambda y_ND: backbone.projector(y_ND))
    _say(train(HalfPrecision(), batches, distortion, recipe, others), f"{scheme.kind} {DISTORTION}")
    adapter.halve(peft)
    return Adapted(peft, backbone.name, learned)


def _encoded(backbone: Llava, lesson: Lesson, *, attended: bool) -> tuple[Tensor, Attention | None]:
    """All features of a picture (P, V, D), float32 and differentiable, and the tower's attention where it is wanted."""
    with torch.autocast("cpu", torch.bfloat16):
        if not attended:
            return backbone.features(lesson.seen.float()).float(), None
        x_PVD, attention = tower.attended_features(
            backbone.vision_tower, lesson.seen.float(), backbone.config.vision_feature_layer
        )
    return x_PVD.float(), Attention(attention.received_PV.detach().float(), attention.keys_PVK.detach().float())


def rate_weight(point: str) -> float:
    """Lambda of a point: ``lambda-0.2``; a codec whose rate nothing can change has any."""
    return float(point.removeprefix("lambda-")) if point.startswith("lambda-") else 0.2


def _say(progress: Iterator[StepLosses], what: str, every: int = 25) -> None:
    for state in progress:
        if state.step % every == every - 1:
            print(
                f"{what}, step {state.step + 1}: D {state.distortion:.3f}, R {state.rate:.3f} bit, "
                f"T {state.temperature:.3g}",
                flush=True,
            )


def measured(backbone: Llava, images: Sequence[Tiles], scheme: type[Ablation], folder: Path) -> tuple[float, float]:
    """Mean bytes of a picture's stream at the larger n_c, and the distortion of its features, decoded."""
    reducer = scheme.reducer(folder, backbone.feature_dim, str(backbone.device))
    codec = scheme.codec_type().load(folder / CODEC)
    kept, returned, n_bytes = [], [], 0
    for tiles in images:
        y_PCD = reducer(backbone.encode(tiles), CLUSTERS[0])
        stream = codec.compress(y_PCD, tiles.layout.grid)
        n_bytes += len(stream)
        kept.append(y_PCD)
        returned.append(codec.decompress(stream).y_PCD)
    return n_bytes / len(images), feature_distortion(torch.cat(returned), torch.cat(kept)).item()


def how(point: str, coded: Budget, uncoded: Budget, pictures: int, seed: int) -> str:
    """All that decides a point's weights besides the backbone, as a point's folder records it."""
    budget = dataclasses.asdict(uncoded if point == DISTORTION else coded)
    return json.dumps({**budget, "learned_from": pictures, "seed": seed}, sort_keys=True)


def card(
    rows: Sequence[tuple[str, str, float, float]],
    reduced: Sequence[str],
    coded: Budget = OF_FIG_12,
    uncoded: Budget = OF_TABLE_1,
    pictures: int = PICTURES,
    seed: int = 0,
) -> str:
    """How the points were made, and the rate and distortion of those with a codec on held-out pictures."""
    table = "\n".join(f"| {scheme} | {point} | {n_bytes:.0f} | {loss:.3f} |" for scheme, point, n_bytes, loss in rows)
    names = ", ".join(reduced) or "none yet"
    return f"""# Ablations of {BACKBONE}

Trained by `python -m recipes.ablations` (seed {seed}, {pictures} pictures to learn from, one thread, torch
{torch.__version__}). Their scores are those of `harness run scenarios/ablation_entropy.yaml` and
`ablation_merging.yaml`.

## Entropy coding (Fig. 12)

Every point has one budget: {coded.steps} steps of {coded.pictures} pictures ({coded.steps * coded.pictures} samples) \
with {coded.asked} questions each, drawn alike for all.
Codec and projector are trained by D + lambda R + L_balance, without a pre-fit.
The temperature falls from 10 to 0.1, and the last {100 * coded.hard_share:g} % of the steps are hard.
Departures from the paper: tower and language model are frozen; one instance for n_c = {CLUSTERS[0]} and {CLUSTERS[1]};
entropy models of one small hidden layer; a learned step; a balance weight of {coded.alpha:g} (the paper's is 0.001).

On {_HELD_OUT} pictures of the StreetsQA test split, n_c = {CLUSTERS[0]}: real streams, decoded.
Distortion is the features' squared error over their variance.

| scheme | point | bytes an image | distortion |
|---|---|---|---|
{table}

## Feature merging (Table I)

Points named `{DISTORTION}`: {names}.

Every one has one budget: {uncoded.steps} steps of {uncoded.pictures} pictures \
({uncoded.steps * uncoded.pictures} samples) with {uncoded.asked} questions each, drawn alike for all.
They are trained by the distortion alone, at n_c = {TABLE_1_CLUSTERS}: LoRA of rank {_RANK} on tower and language model
(the paper's rank is 64), the projector and, where it is learned, the reducer.
Nothing is coded: the features cross the link in half precision.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Make the points that are missing or were trained with another backbone or configuration, and the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, default=ZOO / BACKBONE, help="the backbone's folder")
    parser.add_argument("--out", type=Path, default=WEIGHTS / BACKBONE, help="the folder of the points")
    parser.add_argument("--only", nargs="*", metavar="SCHEME/POINT", help="these alone, such as tofc_single/lambda-0.2")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="number of training pictures")
    parser.add_argument("--steps", type=int, help="steps of every point, instead of its group's")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    disk.check_folder(arguments.out)
    torch.set_num_threads(1)
    coded, uncoded = (
        dataclasses.replace(budget, steps=arguments.steps or budget.steps) for budget in (OF_FIG_12, OF_TABLE_1)
    )
    around = hashlib.sha256((arguments.weights / "model.safetensors").read_bytes()).hexdigest()
    every = [(scheme, point) for scheme, points in FIG_12.items() for point in points]
    every += [(scheme, DISTORTION) for scheme in TABLE_1]
    names = {f"{scheme.kind}/{point}": (scheme, point) for scheme, point in every}
    if unknown := set(arguments.only or ()) - set(names):
        parser.error(f"--only {' '.join(sorted(unknown))}: known are {', '.join(names)}")
    wanted = [names[name] for name in arguments.only or names]
    taught = coded, uncoded, arguments.pictures, arguments.seed

    def is_made(scheme: type[Ablation], point: str) -> bool:
        return trained_around(arguments.out / scheme.kind / point) == (around, how(point, *taught))

    missing = [(scheme, point) for scheme, point in wanted if not is_made(scheme, point)]
    print(f"{len(missing)} of {len(wanted)} points are to be trained", flush=True)
    pages = list(
        itertools.islice(
            itertools.chain.from_iterable(book_of(book) for book in itertools.count(FIRST_BOOK)), arguments.pictures
        )
    )
    made: dict[bool, list[Lesson]] = {}
    for scheme, point in missing:
        begun = time.monotonic()
        backbone = _backbone(arguments.weights)
        is_reduced = point == DISTORTION
        if is_reduced not in made:
            made[is_reduced] = (drawn_lessons if is_reduced else merged_lessons)(backbone, pages)
        trained: Adapted | Trained
        if is_reduced:
            trained = train_reduced(backbone, made[True], scheme, uncoded, arguments.seed)
        else:
            trained = train_point(backbone, made[False], scheme, point, coded, arguments.seed)
        trained.save(arguments.out / scheme.kind / point, around, how(point, *taught))
        print(f"{scheme.kind} {point}: {time.monotonic() - begun:.0f} s", flush=True)
    backbone = _backbone(arguments.weights)
    images = [backbone.preprocess(page.scene().image) for page in streetsqa.book("test", 0)[:_HELD_OUT]]
    rows, reduced = [], []
    for scheme, point in every:
        folder = arguments.out / scheme.kind / point
        if not is_made(scheme, point):
            continue
        if point == DISTORTION:
            reduced.append(scheme.kind)
        else:
            rows.append((scheme.kind, point, *measured(backbone, images, scheme, folder)))
            print(*rows[-1], flush=True)
    (arguments.out / "card.md").write_text(card(rows, reduced, *taught))


def _backbone(weights: Path) -> Llava:
    backbone: Llava = load(BACKBONE, weights=weights).backbone()
    backbone.model.requires_grad_(False)
    return backbone


if __name__ == "__main__":
    guarded(main, "ablations", resumes=True)
