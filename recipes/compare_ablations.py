"""The ablations' points on held-out pages, against TOFC's own: ``python -m recipes.compare_ablations``.

Every point runs as its scheme does, device half and server half, on pages of books that nothing was trained on; D is
the cross-entropy of the answers to the same questions (Eq. 10) and R the bits of the stream per element of y. Fig. 12
is compared by D at equal bytes and by the loss of all its points, D + lambda R; Table I by D at equal n_c.
The intervals are those of :mod:`recipes.over_seeds`, over pages and over the seeds of which there is a folder each.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from baselines.ablations import schemes
from baselines.ablations.schemes import DISTORTION, TABLE_1_CLUSTERS, Ablation, Selective
from harness.cli import guarded
from harness.data.drawing.seeded_random import SeededRandom
from harness.models import files
from harness.models.loading import LlavaModels
from harness.models.onevision import load
from harness.runs import disk
from harness.schemes.tofc import FeaturePoint
from harness.training.bundled import answer_loss, book_of, questions
from recipes.ablations import BACKBONE, CLUSTERS, FIG_12, TABLE_1
from recipes.over_seeds import Difference, difference, less_than_curve

FIRST_BOOK, PAGES = 310_000, 96
_ASKED = 6
WEIGHT = 0.2
"""Lambda of the points that are compared by D + lambda R, over all seeds."""


class Row(NamedTuple):
    """A point of one seed at one n_c: bytes and D of each page, and the elements of y that its bytes code."""

    scheme: str
    point: str
    n_clusters: int
    seed: int
    of_pictures: tuple[tuple[int, float], ...]
    elements: tuple[int, ...]


@torch.inference_mode()
def measured(
    models: LlavaModels, scheme: type[Ablation], point: str, n_clusters: int, pages: int, seed: int = 0
) -> Row:
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
    found, elements = [], []
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
        y_PCD = device.reducer(x_PVD, n_clusters, attention)
        stream = device.codec.compress(y_PCD, tiles.layout.grid)
        tokens = server.language.project(server.codec.decompress(stream, server.limits).y_PCD)
        loss, _ = answer_loss(model, server.language.tokenizer, [tokens], [asked])
        found.append((len(stream), round(float(loss), 5)))
        elements.append(y_PCD.numel())
    return Row(scheme.kind, point, n_clusters, seed, tuple(found), tuple(elements))


def objective(row: Row, weight: float = WEIGHT) -> Any:
    """D + lambda R of each page (P,), float64."""
    page_PX = np.array(row.of_pictures, float)
    return page_PX[:, 1] + weight * 8 * page_PX[:, 0] / np.array(row.elements)


def over_common_seeds(
    mine: Sequence[Row],
    others: Sequence[Row],
    of_page: Callable[[Row], Any] = lambda row: np.array(row.of_pictures)[:, 1],
) -> Difference:
    """The difference of ``of_page`` between two points, over pages and the seeds that both have."""
    by_seed = {row.seed: of_page(row) for row in others}
    return difference([of_page(row) - by_seed[row.seed] for row in mine if row.seed in by_seed])


def report(rows: Sequence[Row]) -> str:
    """Both groups' tables."""
    points: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        points.setdefault((row.scheme, row.point, row.n_clusters), []).append(row)
    lines = [f"| scheme | point | n_c | seeds | bytes an image | D | D + {WEIGHT} R |", "|---|---|---|---|---|---|---|"]
    for (scheme, point, n_c), of_seeds in points.items():
        n_bytes, loss = np.mean([row.of_pictures for row in of_seeds], (0, 1))
        whole = np.mean([objective(row) for row in of_seeds])
        lines.append(f"| {scheme} | {point} | {n_c} | {len(of_seeds)} | {n_bytes:.0f} | {loss:.4f} | {whole:.4f} |")
    lines += [
        "",
        "Fig. 12: D less that of the selective models at equal bytes, of seeds with at least two selective points.",
        "",
    ]
    lines += ["| scheme | point | n_c | D less selective's | 95 % interval | seeds |", "|---|---|---|---|---|---|"]
    coded = {key: of_seeds for key, of_seeds in points.items() if key[1] != DISTORTION and key[0] != Selective.kind}
    for (scheme, point, n_c), of_seeds in coded.items():
        less = []
        for row in of_seeds:
            curve = [r.of_pictures for r in rows if (r.scheme, r.n_clusters, r.seed) == (Selective.kind, n_c, row.seed)]
            if len(curve) > 1:
                less.append(less_than_curve(row.of_pictures, curve))
        if less:
            beyond = any(one is None for one in less)
            shown = f"beyond its curve | - | {len(less)}" if beyond else difference(less)
            lines.append(f"| {scheme} | {point} | {n_c} | {shown} |")
    lines += ["", f"Fig. 12: D + {WEIGHT} R less that of the selective models trained with lambda = {WEIGHT}.", ""]
    lines += [
        "| scheme | point | n_c | D + lambda R less selective's | 95 % interval | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for (scheme, point, n_c), of_seeds in coded.items():
        if point.startswith("bits-") or point == f"lambda-{WEIGHT}":
            selective = points.get((Selective.kind, f"lambda-{WEIGHT}", n_c), [])
            if {row.seed for row in selective} & {row.seed for row in of_seeds}:
                lines.append(f"| {scheme} | {point} | {n_c} | {over_common_seeds(of_seeds, selective, objective)} |")
    lines += ["", "Table I: D less that of TOFC's merging at the same n_c.", ""]
    lines += ["| scheme | n_c | D | D less TOFC's | 95 % interval | seeds |", "|---|---|---|---|---|---|"]
    ours = points.get((TABLE_1[0].kind, DISTORTION, TABLE_1_CLUSTERS), [])
    for (scheme, point, n_c), of_seeds in points.items():
        if point == DISTORTION:
            compared = ours and scheme != TABLE_1[0].kind
            shown = over_common_seeds(of_seeds, ours) if compared else f"- | - | {len(of_seeds)}"
            lines.append(
                f"| {scheme} | {n_c} | {np.mean([row.of_pictures for row in of_seeds], (0, 1))[1]:.4f} | {shown} |"
            )
    return "\n".join(lines)


def saved(path: Path | None) -> dict[str, Row]:
    """The rows of an earlier call, by the digest of what they were measured of."""
    if path is None or not path.is_file():
        return {}
    found = {}
    for key, row in files.read_json(path).items():
        pictures = tuple((int(n_bytes), float(loss)) for n_bytes, loss in row["of_pictures"])
        found[key] = Row(**{**row, "of_pictures": pictures, "elements": tuple(row["elements"])})
    return found


def digest(folder: Path, *given: Any) -> str:
    """The digest of a point's files and of all else that decides its rows."""
    found = hashlib.sha256(repr(given).encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(path.read_bytes())
    return found.hexdigest()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every point that a folder of weights has, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--weights",
        type=Path,
        nargs="+",
        default=[schemes.WEIGHTS],
        help="the folder of the backbones' points of each seed",
    )
    parser.add_argument("--pages", type=int, default=PAGES)
    parser.add_argument("--save", type=Path, help="a JSON file for the rows; what it holds is not measured again")
    arguments = parser.parse_args(argv)
    if arguments.pages < 2:
        parser.error(f"--pages {arguments.pages}: an interval over pages needs at least 2")
    if arguments.save:
        disk.check_writable(arguments.save)
    torch.set_num_threads(1)
    models: LlavaModels = load(BACKBONE)
    wanted = [(scheme, point, n_c) for scheme, points in FIG_12.items() for point in points for n_c in CLUSTERS]
    wanted += [(scheme, DISTORTION, TABLE_1_CLUSTERS) for scheme in TABLE_1]
    known = saved(arguments.save)
    rows = []
    for seed, weights in enumerate(arguments.weights):
        schemes.WEIGHTS = weights
        for scheme, point, n_c in wanted:
            folder = weights / BACKBONE / scheme.kind / point
            if not folder.is_dir():
                continue
            key = digest(folder, scheme.kind, point, n_c, seed, arguments.pages)
            if key not in known:
                known[key] = measured(models, scheme, point, n_c, arguments.pages, seed)
                print(f"{scheme.kind} {point}, n_c {n_c}, of {weights}", flush=True)
                if arguments.save:
                    disk.write_text(arguments.save, json.dumps({name: row._asdict() for name, row in known.items()}))
            rows.append(known[key])
    print("\n" + report(rows))


if __name__ == "__main__":
    guarded(main, "compare_ablations")
