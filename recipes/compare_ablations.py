"""The ablations' points on held-out pages, against TOFC's own: ``python -m recipes.compare_ablations``.

Every point runs as its scheme does, device half and server half, on pages of books that nothing learnt from; D is the
cross-entropy of the answers to the same questions (Eq. 10). Fig. 12 is compared at equal bytes, Table I at equal n_c.
The intervals are over pages; with points of one seed they leave the scatter of a training out, and are too narrow.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from baselines.ablations import schemes
from baselines.ablations.schemes import DISTORTION, TABLE_1_CLUSTERS, Ablation, Selective
from harness.cli import guarded
from harness.data.drawing.seeded_random import SeededRandom
from harness.models.loading import LlavaModels
from harness.models.onevision import load
from harness.runs import disk
from harness.schemes.tofc import FeaturePoint
from harness.training.bundled import answer_loss, book_of, questions
from recipes.ablations import BACKBONE, CLUSTERS, FIG_12, TABLE_1
from recipes.compare_codecs import against_curve

FIRST_BOOK, PAGES = 310_000, 96
_ASKED, _RESAMPLES = 6, 2000


class Row(NamedTuple):
    """A point at one n_c: bytes and D of each page."""

    scheme: str
    point: str
    n_clusters: int
    of_pictures: tuple[tuple[int, float], ...]


@torch.inference_mode()
def measured(models: LlavaModels, scheme: type[Ablation], point: str, n_clusters: int, pages: int) -> Row:
    """A point on the held-out pages."""
    at = FeaturePoint(codec=point, n_c=n_clusters)
    device: Any = scheme.device_half(models, at)
    server: Any = scheme.server_half(models, at)
    layers = server.language._engine.language
    model = SimpleNamespace(
        get_input_embeddings=lambda: layers.model.embed_tokens,
        model=SimpleNamespace(language_model=layers.model),
        lm_head=layers.lm_head,
    )
    found = []
    held_out = [page for book in range(FIRST_BOOK, FIRST_BOOK + 1 + pages // 90) for page in book_of(book)][:pages]
    for number, page in enumerate(held_out):
        rng = SeededRandom("ablations held out", number)
        asked = rng.shuffled(questions(page, rng))[:_ASKED]
        tiles = device.vision.preprocess(page.scene().image)
        attention = None
        if device.reducer.attended:
            x_PVD, attention = device.vision.encode_attended(tiles)
        else:
            x_PVD = device.vision.encode(tiles)
        stream = device.codec.compress(device.reducer(x_PVD, n_clusters, attention), tiles.layout.grid)
        tokens = server.language.project(server.codec.decompress(stream, server.limits).y_PCD)
        loss, _ = answer_loss(model, server.language.tokenizer, [tokens], [asked])
        found.append((len(stream), round(float(loss), 5)))
    return Row(scheme.kind, point, n_clusters, tuple(found))


def paired(mine: Row, other: Row, seed: int = 0) -> tuple[float, float, float]:
    """D of ``mine`` less that of ``other`` on the same pages, and its 95 % bootstrap interval over the pages."""
    less_P = np.array([a[1] - b[1] for a, b in zip(mine.of_pictures, other.of_pictures, strict=True)])
    drawn = np.random.default_rng(seed).integers(0, len(less_P), (_RESAMPLES, len(less_P)))
    low, high = np.quantile(less_P[drawn].mean(1), [0.025, 0.975])
    return float(less_P.mean()), float(low), float(high)


def report(rows: Sequence[Row]) -> str:
    """Both groups' tables."""
    lines = ["| scheme | point | n_c | bytes an image | D |", "|---|---|---|---|---|"]
    for row in rows:
        n_bytes, loss = np.mean(row.of_pictures, 0)
        lines.append(f"| {row.scheme} | {row.point} | {row.n_clusters} | {n_bytes:.0f} | {loss:.4f} |")
    lines += ["", "Fig. 12: D less that of the selective models at equal bytes, and its 95 % interval over pages.", ""]
    lines += ["| scheme | point | n_c | bytes an image | D less selective's | interval |", "|---|---|---|---|---|---|"]
    for n_c in CLUSTERS:
        curve = [r.of_pictures for r in rows if r.scheme == Selective.kind and r.n_clusters == n_c]
        for row in (r for r in rows if r.scheme != Selective.kind and r.n_clusters == n_c and r.point != DISTORTION):
            compared = against_curve(row.of_pictures, curve)
            n_bytes = np.mean(row.of_pictures, 0)[0]
            shown = "beyond its curve | " if compared is None else "{:+.4f} | {:+.4f} to {:+.4f}".format(*compared)
            lines.append(f"| {row.scheme} | {row.point} | {n_c} | {n_bytes:.0f} | {shown} |")
    reduced = [row for row in rows if row.point == DISTORTION]
    lines += ["", "Table I: D less that of TOFC's merging at the same n_c, and its 95 % interval over pages.", ""]
    lines += ["| scheme | n_c | D | D less TOFC's | interval |", "|---|---|---|---|---|"]
    ours = next((row for row in reduced if row.scheme == TABLE_1[0].kind), None)
    for row in reduced:
        less = "- | -" if ours is None else "{:+.4f} | {:+.4f} to {:+.4f}".format(*paired(row, ours))
        lines.append(f"| {row.scheme} | {row.n_clusters} | {np.mean(row.of_pictures, 0)[1]:.4f} | {less} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every point that a folder of weights has, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, default=schemes.WEIGHTS, help="the folder of the backbones' points")
    parser.add_argument("--pages", type=int, default=PAGES)
    parser.add_argument("--save", type=Path, help="a JSON file for the rows")
    arguments = parser.parse_args(argv)
    if arguments.save:
        disk.check_writable(arguments.save)
    torch.set_num_threads(1)
    schemes.WEIGHTS = arguments.weights
    models: LlavaModels = load(BACKBONE)
    wanted = [(scheme, point, n_c) for scheme, points in FIG_12.items() for point in points for n_c in CLUSTERS]
    wanted += [(scheme, DISTORTION, TABLE_1_CLUSTERS) for scheme in TABLE_1]
    rows = []
    for scheme, point, n_c in wanted:
        if (arguments.weights / BACKBONE / scheme.kind / point).is_dir():
            rows.append(measured(models, scheme, point, n_c, arguments.pages))
            print(f"{scheme.kind} {point}, n_c {n_c}", flush=True)
    if arguments.save:
        disk.write_text(arguments.save, json.dumps([row._asdict() for row in rows]))
    print("\n" + report(rows))


if __name__ == "__main__":
    guarded(main, "compare_ablations")
