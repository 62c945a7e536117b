"""Makes the TOFC codecs of mini-onevision from seeds: ``python -m harness.zoo.mini_tofc``.

Only the codec learns, against the answers' cross-entropy (Eq. 10) through the frozen projector and language model; the
paper also adapts the backbone (LoRA). So these codecs show what the entropy models alone are worth.

    P patches   C clusters   D dimension
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from harness.backbones.onevision import OneVision, load
from harness.data import streetsqa
from harness.data.asking import Asked, Page
from harness.data.drawing.dice import Dice
from harness.tofc.codec import CODECS, CodecConfig, TofcCodec
from harness.tofc.merging import merge
from harness.tofc.training import RateDistortion, Recipe, measure, train
from harness.zoo.features import book_of
from harness.zoo.language import questions
from harness.zoo.lessons import answer_loss

BACKBONE = "mini-onevision"
CLUSTERS = (6, 3)
"""The n_c of the lessons in turn: one codec serves every n_c, because features are coded one by one."""
LAMBDAS = (0.03, 0.1, 0.3, 1.0)
"""Against the rate in bits per element of y; the frozen backbone answers worse for it from about the middle on."""
STEPS, PICTURES = 300, 8
_FIRST_BOOK, _BOOKS = 200_000, 8
"""Training books that neither the backbone nor anything else learnt from."""
_HELD_OUT = 24

Lesson = tuple[Page, Tensor]


def lessons(backbone: OneVision, pages: Sequence[Page]) -> list[Lesson]:
    """Pages with the merged features of their pictures, the n_c of :data:`CLUSTERS` in turn."""
    found: list[Lesson] = []
    for page in track(pages, "features"):
        x_PVD = backbone.encode_image(backbone.preprocess(page.scene().image))
        found.append((page, merge(x_PVD, CLUSTERS[len(found) % len(CLUSTERS)]).y_PCD.clone()))
    return found


def train_codec(backbone: OneVision, kept: Sequence[Lesson], rate_weight: float, steps: int = STEPS) -> TofcCodec:
    """A codec for one lambda, frozen for use."""
    torch.manual_seed(0)
    model: Any = backbone.model.requires_grad_(False)
    everything_1ND = torch.cat([y_PCD.flatten(0, 1) for _, y_PCD in kept])[None]
    codec = TofcCodec(CodecConfig(dim=backbone.feature_dim))
    codec.fit_scale(everything_1ND)

    def batches() -> Iterator[tuple[Tensor, Sequence[Lesson]]]:
        dice = Dice("tofc", f"{rate_weight}")
        while True:
            drawn = [dice.pick(kept) for _ in range(PICTURES)]
            yield torch.cat([y_PCD.flatten(0, 1) for _, y_PCD in drawn])[None], drawn

    asking = Dice("tofc questions", f"{rate_weight}")

    def distortion(y_bar_1ND: Tensor, drawn: Sequence[Lesson]) -> Tensor:
        pictures = torch.split(y_bar_1ND[0], [y_PCD.shape[0] * y_PCD.shape[1] for _, y_PCD in drawn])
        asked: list[Sequence[Asked]] = [questions(page, asking) for page, _ in drawn]
        return answer_loss(model, backbone.tokenizer, [model.model.multi_modal_projector(p) for p in pictures], asked)[
            0
        ]

    recipe = Recipe(rate_weight=rate_weight, steps=steps)
    progress = train(codec, batches(), distortion, recipe)
    for state in track(progress, f"lambda {rate_weight}", total=steps):
        if state.step % 50 == 0 or state.step == steps - 1:
            print(
                f"lambda {rate_weight} step {state.step}: D {state.distortion:.3f}, R {state.rate:.3f} bit", flush=True
            )
    codec.eval()
    codec.freeze(everything_1ND)
    return codec


def card(rows: Sequence[tuple[float, RateDistortion]], seconds: float) -> str:
    """What the codecs cost and lose on pictures that they did not learn from."""
    table = "\n".join(
        f"| {weight} | {found.bytes_per_image:.0f} | {found.distortion:.3f} | {100 * found.z_share:.1f} % "
        f"| {', '.join(map(str, sorted(found.expert_use, reverse=True)))} |"
        for weight, found in rows
    )
    return f"""# TOFC codecs of {BACKBONE}

Sixteen selectable entropy models each, trained by `python -m harness.zoo.mini_tofc` (seed 0,
{seconds / 60:.0f} minutes, one thread, torch {torch.__version__}): {STEPS} steps of {PICTURES} pictures with the
loss of Algorithm 1. The backbone is frozen, where the paper adapts it too; the quantiser's step is learned, where the
paper lets the adapted tower move the features' scale.

On {_HELD_OUT} pictures of the StreetsQA test split, n_c = {CLUSTERS[0]}: real streams, decoded. Distortion is the
features' squared error over their variance.

| lambda | bytes an image | distortion | z's share | features that chose each model |
|---|---|---|---|---|
{table}
"""


def main() -> None:
    """Make the codecs and their card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="the backbone's folder, instead of the zoo's")
    parser.add_argument("--out", type=Path, default=CODECS / BACKBONE, help="the codecs' folder")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    backbone = load(BACKBONE, weights=arguments.weights)
    pages = [page for book in range(_FIRST_BOOK, _FIRST_BOOK + _BOOKS) for page in book_of(book)]
    kept = lessons(backbone, pages)
    scenes = [page.scene().image for page in streetsqa.book("test", 0)[:_HELD_OUT]]
    held_out = [merge(backbone.encode_image(backbone.preprocess(scene)), CLUSTERS[0]).y_PCD for scene in scenes]
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for weight in LAMBDAS:
        codec = train_codec(backbone, kept, weight, arguments.steps)
        codec.save(arguments.out / f"lambda-{weight}.safetensors")
        rows.append((weight, measure(codec, held_out)))
        print(rows[-1], flush=True)
    (arguments.out / "card.md").write_text(card(rows, time.monotonic() - start))


if __name__ == "__main__":
    main()
