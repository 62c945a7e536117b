"""What a backbone scores on the bundled benchmarks, and how the score falls when it is shown less.

``python -m recipes.scores mini-onevision``
"""

import argparse
import io
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harness import catalog
from harness.cli import guarded
from harness.data import glimpseqa, streetsqa
from harness.data.sample import Sample
from harness.data.scoring import judge, metric
from harness.models.contract import Request, Untimed
from harness.models.llava import Llava
from harness.tofc.merging import merge

Tokens = Callable[[Llava, Image.Image], torch.Tensor]


def all_tokens(backbone: Llava, image: Image.Image) -> torch.Tensor:
    """Every visual token (T, H), as the backbone arranges them."""
    tiles = backbone.preprocess(image)
    return backbone.project_all(backbone.encode(tiles), tiles.layout)


def merged(n_clusters: int) -> Tokens:
    """The visual tokens of the features merged to ``n_clusters`` a patch."""

    def tokens(backbone: Llava, image: Image.Image) -> torch.Tensor:
        x_PVD = backbone.encode(backbone.preprocess(image))
        return backbone.project(merge(x_PVD, n_clusters).y_PCD)

    return tokens


def blanked(backbone: Llava, image: Image.Image) -> torch.Tensor:
    """Every visual token of a grey picture of the image's size: what the question's text alone gives away."""
    return all_tokens(backbone, Image.new("RGB", image.size, (128, 128, 128)))


def jpeg(quality: int) -> Tokens:
    """Every visual token of the image after JPEG with 4:2:0 chroma."""

    def tokens(backbone: Llava, image: Image.Image) -> torch.Tensor:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, subsampling=2)
        with Image.open(file) as decoded:
            return all_tokens(backbone, decoded.convert("RGB"))

    return tokens


_SHARES = (1 / 24, 1 / 36, 1 / 72)
"""6, 4 and 2 of a tile's 144 features."""
_SHARES_OF_ONE_TILE = (1 / 9, 1 / 18, 1 / 36)
"""The paper's 64 to 16 of LLaVA-1.5's 576 features: 36, 18 and 9 of 324."""


def ways(backbone: Llava) -> Mapping[str, Tokens]:
    """What is shown, by its name in the table: everything, less of it, and nothing."""
    tiled = backbone.preprocess(Image.new("RGB", (64, 64))).pixels_PCHW.shape[0] > 1
    counts = [round(share * backbone.n_features) for share in (_SHARES if tiled else _SHARES_OF_ONE_TILE)]
    return {
        "all tokens": all_tokens,
        **{f"merged to {n} ({100 * n / backbone.n_features:.1f} %)": merged(n) for n in counts},
        "JPEG quality 20": jpeg(20),
        "JPEG quality 5": jpeg(5),
        "image blanked": blanked,
    }


def verdicts(backbone: Llava, samples: Sequence[Sample], tokens: Tokens) -> list[bool]:
    """Whether each answer is right; all questions about a picture that follow each other are answered at once."""
    out: list[bool] = []
    for _, of_picture in itertools.groupby(samples, key=lambda sample: sample.image_id):
        asked = list(of_picture)
        seen = [tokens(backbone, asked[0].image())]
        answers = backbone.answer([Request(seen, one.question) for one in asked], [Untimed()] * len(asked))
        out += [judge(one.question, one.truth, answer.text) for one, answer in zip(asked, answers, strict=True)]
    return out


def table(backbone: Llava, benchmarks: Mapping[str, Sequence[Sample]]) -> str:
    """The scores as a Markdown table, a row for each way and benchmark, with the accuracy of every category."""
    lines = ["| benchmark | shown | score | accuracy | by category |", "|---|---|---|---|---|"]
    for name, samples in benchmarks.items():
        category = np.array([sample.category for sample in samples])
        group = np.array([sample.group for sample in samples])
        for way, tokens in ways(backbone).items():
            correct = np.array(verdicts(backbone, samples, tokens))
            score = metric(name).score(category, group, correct)
            parts = ", ".join(f"{c} {100 * correct[category == c].mean():.0f}" for c in sorted(set(category)))
            lines.append(f"| {name} | {way} | {score:.1f} | {100 * correct.mean():.1f} % | {parts} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table of one backbone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbone", choices=sorted(catalog.BACKBONES))
    parser.add_argument("--weights", type=Path, help="a folder to use instead of the zoo's")
    arguments = parser.parse_args()
    load = catalog.load("backbone", arguments.backbone, catalog.BACKBONES)
    backbone = load(arguments.backbone, weights=arguments.weights).backbone()
    with tempfile.TemporaryDirectory() as folder:
        benchmarks = {
            "StreetsQA": streetsqa.load("StreetsQA", cache=Path(folder)),
            "GlimpseQA": glimpseqa.load("GlimpseQA", cache=Path(folder)),
        }
        print(table(backbone, benchmarks))


if __name__ == "__main__":
    guarded(main, "scores")
