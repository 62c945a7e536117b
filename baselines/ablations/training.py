"""Trains every ablation of mini-onevision under one budget: ``python -m baselines.ablations.training``.

All go through :func:`train_point`: the same pictures and questions, the same steps, the same loss, the same projector
to start from. What differs is the part that is replaced. The codec is first fitted to the features alone, which costs
little; then codec, projector and, where it is learned, reducer are trained together against the answers' cross-entropy
(Algorithm 1). Tower and language model stay frozen, where the paper adapts them with LoRA.

    P patches   V features a patch   C features that are kept   D dimension
"""

import argparse
import copy
import dataclasses
import hashlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.ablations.schemes import (
    CODEC,
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
from baselines.ablations.trained import LearnedReducer, Trained, trained_around
from harness.data import streetsqa
from harness.data.asking import Asked, Page
from harness.data.drawing.dice import Dice
from harness.models.contract import Tiles
from harness.models.files import ZOO
from harness.models.llava import Llava
from harness.models.onevision import load
from harness.tofc.training import Progress, Recipe, feature_distortion, train
from harness.zoo.features import book_of
from harness.zoo.language import questions
from harness.zoo.lessons import answer_loss

BACKBONE = "mini-onevision"
CLUSTERS = (6, 3)
"""The n_c of the lessons in turn; Table I's 16 of 729 features are 3 of 144."""
FIRST_BOOK, PICTURES = 300_000, 576
"""Of training books that neither the backbone nor TOFC's codecs learnt from."""
_HELD_OUT = 24

_LEARNED = ("lambda-0.05", "lambda-0.2", "lambda-0.8")
POINTS: Mapping[type[Ablation], Sequence[str]] = {
    Selective: _LEARNED,
    Single: _LEARNED,
    Factorized: _LEARNED,
    Heuristic: ("bits-3", "bits-4", "bits-5"),
    Unmerged: _LEARNED[:2],
    VisionZipDominant: _LEARNED[:2],
    VisionZipMerging: _LEARNED[:2],
    QFormerQueries: _LEARNED[:2],
}
"""The points of each scheme; lambda weighs the rate in bits per element of y, as in Eq. 9."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every point may spend: steps on features alone, steps on answers, and the pictures and questions of each."""

    feature_steps: int = 150
    answer_steps: int = 200
    pictures: int = 8
    asked: int = 6
    rate: float = 2e-3
    step_rate: float = 2e-2
    projector_rate: float = 5e-4


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A page, the n_c at which it is taught, and for each scheme what its reducer makes of the picture.

    Where the reducer is learned, that is all features of the picture, in half precision.
    """

    page: Page
    n_clusters: int
    of_scheme: Mapping[str, Tensor]


def lessons(backbone: Llava, pages: Sequence[Page], schemes: Sequence[type[Ablation]]) -> list[Lesson]:
    """Pages with what each scheme's reducer makes of their pictures."""
    reducers = {scheme.kind: None if scheme.learned else scheme.new_reducer(backbone.feature_dim) for scheme in schemes}
    found = []
    for number, page in enumerate(pages):
        n_clusters = CLUSTERS[number % len(CLUSTERS)]
        x_PVD, attention = backbone.encode_attended(backbone.preprocess(page.scene().image))
        made: dict[str, Tensor] = {}
        of_type: dict[Any, Tensor] = {}
        for name, reducer in reducers.items():
            key = None if reducer is None else (type(reducer), *vars(reducer).values())
            if key not in of_type:
                of_type[key] = x_PVD.half() if reducer is None else reducer(x_PVD, n_clusters, attention).clone()
            made[name] = of_type[key]
        found.append(Lesson(page, n_clusters, made))
        if (number + 1) % 50 == 0:
            print(f"pictures: {number + 1} of {len(pages)}", flush=True)
    return found


def train_point(
    backbone: Llava, kept: Sequence[Lesson], scheme: type[Ablation], point: str, budget: Budget = Budget()
) -> Trained:
    """One point of a scheme, frozen for use."""
    torch.manual_seed(0)
    dim = backbone.feature_dim
    reducer: Any = scheme.new_reducer(dim)
    learned: LearnedReducer | None = reducer if isinstance(reducer, LearnedReducer) else None
    if learned is not None:
        learned.fit_scale(torch.cat([lesson.of_scheme[scheme.kind].float() for lesson in kept[:40]]))
    projector: Any = copy.deepcopy(backbone.projector).float().requires_grad_(True)

    def features(lesson: Lesson) -> Tensor:
        cached = lesson.of_scheme[scheme.kind].float()
        return cached if learned is None else learned(cached, lesson.n_clusters)

    def flat(drawn: Sequence[Lesson]) -> Tensor:
        return torch.cat([features(lesson).flatten(0, 1) for lesson in drawn])[None]

    codec = scheme.new_codec(dim, point)
    weight = rate_weight(point)
    with torch.no_grad():
        everything_1ND = flat(kept)
    codec.fit_scale(everything_1ND)

    def drawn_lessons(what: str) -> Iterator[tuple[Tensor, Sequence[Lesson]]]:
        dice = Dice("ablations", what)
        while True:
            drawn = [dice.pick(kept) for _ in range(budget.pictures)]
            yield flat(drawn), drawn

    asking = Dice("ablations", "questions")

    def of_answers(y_bar_1ND: Tensor, drawn: Sequence[Lesson]) -> Tensor:
        sizes = [lesson.n_clusters * lesson.of_scheme[scheme.kind].shape[0] for lesson in drawn]
        asked: list[Sequence[Asked]] = [
            asking.shuffled(questions(lesson.page, asking))[: budget.asked] for lesson in drawn
        ]
        pictures = [projector(y_ND) for y_ND in torch.split(y_bar_1ND[0], sizes)]
        return answer_loss(backbone.model, backbone.tokenizer, pictures, asked)[0]

    others = [{"params": list(projector.parameters()), "lr": budget.projector_rate}]
    if learned is not None:
        others.append({"params": list(learned.parameters()), "lr": budget.rate})
    # Nothing of a codec without parameters can be fitted to features alone.
    if learned is None and any(True for _ in codec.parameters()):
        recipe = Recipe(
            rate_weight=weight,
            steps=budget.feature_steps,
            learning_rate=budget.rate,
            step_learning_rate=budget.step_rate,
        )
        batches = ((y_1ND, y_1ND) for y_1ND, _ in drawn_lessons("features"))
        _say(train(codec, batches, feature_distortion, recipe), f"{scheme.kind} {point}, features")
    # All hard: the router has chosen by now, and another start from equal weights would undo that.
    recipe = Recipe(
        rate_weight=weight,
        steps=budget.answer_steps,
        learning_rate=budget.rate,
        step_learning_rate=budget.step_rate / 2,
        hard_share=1 - 0.4 / budget.answer_steps,
    )
    _say(train(codec, drawn_lessons("answers"), of_answers, recipe, others), f"{scheme.kind} {point}, answers")
    codec.eval()
    with torch.no_grad():
        codec.freeze(flat(kept))
    return Trained(codec, projector, learned)


def rate_weight(point: str) -> float:
    """Lambda of a point: ``lambda-0.2``; a codec whose rate nothing can change has any."""
    return float(point.removeprefix("lambda-")) if point.startswith("lambda-") else 0.2


def _say(progress: Iterator[Progress], what: str, every: int = 50) -> None:
    for state in progress:
        if state.step % every == every - 1:
            print(f"{what}, step {state.step + 1}: D {state.distortion:.3f}, R {state.rate:.3f} bit", flush=True)


def measured(backbone: Llava, images: Sequence[Tiles], scheme: type[Ablation], folder: Path) -> tuple[float, float]:
    """Mean bytes of a picture's stream at the larger n_c, and the distortion of its features, decoded."""
    reducer = scheme.reducer(folder, backbone.feature_dim, str(backbone.device))
    codec = scheme.codec_type().load(folder / CODEC)
    kept, returned, n_bytes = [], [], 0
    for tiles in images:
        x_PVD, attention = backbone.encode_attended(tiles)
        y_PCD = reducer(x_PVD, CLUSTERS[0], attention)
        stream = codec.compress(y_PCD, tiles.layout.grid)
        n_bytes += len(stream)
        kept.append(y_PCD)
        returned.append(codec.decompress(stream).y_PCD)
    return n_bytes / len(images), feature_distortion(torch.cat(returned), torch.cat(kept)).item()


def card(rows: Sequence[tuple[str, str, float, float]], budget: Budget) -> str:
    """What each point costs and loses on pictures that it did not learn from."""
    table = "\n".join(f"| {scheme} | {point} | {n_bytes:.0f} | {loss:.3f} |" for scheme, point, n_bytes, loss in rows)
    return f"""# Ablations of {BACKBONE}

Trained by `python -m baselines.ablations.training` (seed 0, one thread, torch {torch.__version__}), every point under
one budget: {budget.feature_steps} steps on features alone and {budget.answer_steps} on answers, of {budget.pictures}
pictures with {budget.asked} questions each, drawn alike for all. Codec, projector and, where it is learned, reducer are
trained; tower and language model are frozen, where the paper adapts them too.

On {_HELD_OUT} pictures of the StreetsQA test split, n_c = {CLUSTERS[0]}: real streams, decoded. Distortion is the
features' squared error over their variance, of what each reducer made: it compares codecs, not reducers.

| scheme | point | bytes an image | distortion |
|---|---|---|---|
{table}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Make the points that are missing, or were trained around other weights of the backbone, and the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, default=ZOO / BACKBONE, help="the backbone's folder")
    parser.add_argument("--out", type=Path, default=WEIGHTS / BACKBONE, help="where the points go")
    parser.add_argument("--schemes", nargs="*", choices=[scheme.kind for scheme in POINTS], help="these alone")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="to learn from")
    parser.add_argument("--feature-steps", type=int, default=Budget.feature_steps)
    parser.add_argument("--answer-steps", type=int, default=Budget.answer_steps)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    budget = Budget(feature_steps=arguments.feature_steps, answer_steps=arguments.answer_steps)
    around = hashlib.sha256((arguments.weights / "model.safetensors").read_bytes()).hexdigest()
    every = [(scheme, point) for scheme, points in POINTS.items() for point in points]
    wanted = [of_scheme for of_scheme in every if not arguments.schemes or of_scheme[0].kind in arguments.schemes]
    missing = [
        (scheme, point) for scheme, point in wanted if trained_around(arguments.out / scheme.kind / point) != around
    ]
    print(f"{len(missing)} of {len(wanted)} points are to be trained", flush=True)
    models = load(BACKBONE, weights=arguments.weights)
    backbone = models.backbone()
    backbone.model.requires_grad_(False)
    if missing:
        pages = itertools.chain.from_iterable(book_of(book) for book in itertools.count(FIRST_BOOK))
        kept = lessons(backbone, list(itertools.islice(pages, arguments.pictures)), list(dict(missing)))
    for scheme, point in missing:
        begun = time.monotonic()
        trained = train_point(backbone, kept, scheme, point, budget)
        trained.save(arguments.out / scheme.kind / point, around)
        print(f"{scheme.kind} {point}: {time.monotonic() - begun:.0f} s", flush=True)
    images = [backbone.preprocess(page.scene().image) for page in streetsqa.book("test", 0)[:_HELD_OUT]]
    rows = []
    for scheme, point in every:
        folder = arguments.out / scheme.kind / point
        if trained_around(folder) == around:
            rows.append((scheme.kind, point, *measured(backbone, images, scheme, folder)))
            print(*rows[-1], flush=True)
    (arguments.out / "card.md").write_text(card(rows, budget))


if __name__ == "__main__":
    main()
