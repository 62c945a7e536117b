"""The ablations' points on held-out pages, against TOFC's own: ``python -m recipes.compare_ablations``.

Every point runs as its scheme does, device half and server half, on pages of books that nothing was trained on; D is
the cross-entropy of the answers to the same questions (Eq. 10) and R the bits of the stream per element of y. Fig. 12
is compared by D at equal bytes and by the loss of all its points, D + lambda R; Table I by D at equal n_c.
The intervals are those of :mod:`recipes.over_seeds`, over pages and over the seeds that both points were trained
with; with one seed they are over pages alone, and too narrow. At equal bytes each seed has its own curve.
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
from pydantic import TypeAdapter

from baselines.ablations import schemes
from baselines.ablations.schemes import DISTORTION, TABLE_1_CLUSTERS, Ablation, Selective
from baselines.ablations.trained import trained_around
from harness.catalog import ZOO
from harness.cli import guarded
from harness.data.drawing.seeded_random import SeededRandom
from harness.errors import CheckpointError
from harness.files import no_folder
from harness.models import files
from harness.models.loading import LlavaModels
from harness.models.onevision import load
from harness.schemes.tofc import FeaturePoint
from harness.training.bundled import answer_loss, questions
from recipes import held_out
from recipes.ablations import BACKBONE, CLUSTERS, FIG_12, TABLE_1
from recipes.over_seeds import Difference, difference, less_than_curve

FIRST_BOOK = 310_000
_ASKED = 6
WEIGHT = 0.2
"""Lambda of the points that are compared by D + lambda R, over all seeds."""
_NO_COMMON = "no seed in common | - | 0"


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
    models: LlavaModels,
    scheme: type[Ablation],
    point: str,
    n_clusters: int,
    pages: int,
    seed: int = 0,
    folder: Path | None = None,
) -> Row:
    """A point on the held-out pages; ``folder`` is where it is, unless it is found by its name."""
    at = FeaturePoint(codec=point if folder is None else str(folder.absolute()), n_c=n_clusters)
    device: Any = scheme.device_half(models, at)
    server: Any = scheme.server_half(models, at)
    layers = server.language._engine.language
    model = SimpleNamespace(
        get_input_embeddings=lambda: layers.model.embed_tokens,
        model=SimpleNamespace(language_model=layers.model),
        lm_head=layers.lm_head,
    )
    found, elements = [], []
    for number, page in enumerate(held_out.book_pages(FIRST_BOOK)[:pages]):
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
) -> Difference | None:
    """The difference of ``of_page`` between two points, over pages and the seeds that both have; None of no seed."""
    by_seed = {row.seed: of_page(row) for row in others}
    less = [of_page(row) - by_seed[row.seed] for row in mine if row.seed in by_seed]
    return difference(less) if less else None


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
            if selective:
                shown = over_common_seeds(of_seeds, selective, objective) or _NO_COMMON
                lines.append(f"| {scheme} | {point} | {n_c} | {shown} |")
    lines += ["", "Table I: D less that of TOFC's merging at the same n_c.", ""]
    lines += ["| scheme | n_c | D | D less TOFC's | 95 % interval | seeds |", "|---|---|---|---|---|---|"]
    ours = points.get((TABLE_1[0].kind, DISTORTION, TABLE_1_CLUSTERS), [])
    for (scheme, point, n_c), of_seeds in points.items():
        if point == DISTORTION:
            compared = ours and scheme != TABLE_1[0].kind
            shown = (over_common_seeds(of_seeds, ours) or _NO_COMMON) if compared else f"- | - | {len(of_seeds)}"
            loss = np.mean([row.of_pictures for row in of_seeds], (0, 1))[1]
            lines.append(f"| {scheme} | {n_c} | {loss:.4f} | {shown} |")
    return "\n".join(lines)


class Point(NamedTuple):
    """A trained point, and the seed that it says it was trained with."""

    folder: Path
    scheme: type[Ablation]
    name: str
    seed: int


def points_of(folders: Sequence[Path]) -> list[Point]:
    """The points in folders of weights, before any is loaded.

    Raises CheckpointError for a folder without any, for a point that is incomplete or was trained around other weights
    than the backbone's or does not say its seed, and for two of the same seed.
    """
    around = hashlib.sha256((ZOO / BACKBONE / "model.safetensors").read_bytes()).hexdigest()
    named = [(scheme, point) for scheme, points in FIG_12.items() for point in points]
    named += [(scheme, DISTORTION) for scheme in TABLE_1]
    found: list[Point] = []
    for weights in folders:
        if not weights.is_dir():
            raise CheckpointError(
                f"{weights}: {no_folder(weights)}; a folder with points in {BACKBONE}/SCHEME is expected"
            )
        present = [(scheme, name) for scheme, name in named if (weights / BACKBONE / scheme.kind / name).is_dir()]
        if not present:
            is_deep = any((weights / scheme.kind).is_dir() for scheme, _ in named)
            hint = f": its points must lie in a folder {BACKBONE}, and --weights is the one above" if is_deep else ""
            raise CheckpointError(
                f"{weights}: has no points; {weights / BACKBONE / Selective.kind / FIG_12[Selective][0]} would be "
                f"one{hint}"
            )
        for scheme, name in present:
            folder = weights / BACKBONE / scheme.kind / name
            was, how = trained_around(folder)
            if was != around:
                said = f"was trained around the weights {was[:12]} of {BACKBONE}" if was else "is incomplete"
                raise CheckpointError(
                    f"{folder}: {said}, and the backbone's are {around[:12]}; 'python -m recipes.ablations' makes it "
                    "again"
                )
            found.append(Point(folder, scheme, name, _seed_of(how, folder)))
    seen: dict[tuple[type[Ablation], str, int], Path] = {}
    for one in found:
        if (key := (one.scheme, one.name, one.seed)) in seen:
            raise CheckpointError(
                f"{one.folder}: is of seed {one.seed}, as is {seen[key]}; each folder of --weights must be of another "
                "seed"
            )
        seen[key] = one.folder
    return found


def _seed_of(how: str, folder: Path) -> int:
    try:
        return int(json.loads(how)["seed"])
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{folder}: does not say its seed, by which points are compared; 'python -m recipes.ablations' makes it "
            "again"
        ) from None


def digest(point: Point, n_clusters: int, pages: int) -> str:
    """The digest of all that decides a point's rows; see :mod:`recipes.held_out`."""
    paths = sorted(path for path in point.folder.rglob("*") if path.is_file())
    fingerprints = [files.fingerprint(ZOO / BACKBONE, part) for part in files.PARTS]
    return held_out.digest(paths, point.scheme.kind, point.name, n_clusters, pages, FIRST_BOOK, *fingerprints)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every point that a folder of weights has, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--weights",
        type=Path,
        nargs="+",
        default=[schemes.WEIGHTS],
        help=f"for each seed a folder with {BACKBONE}/SCHEME/POINT in it",
    )
    arguments = held_out.parsed(parser, argv, FIRST_BOOK)
    points = points_of(arguments.weights)
    saved = held_out.Saved(arguments.save, TypeAdapter(dict[str, tuple[Row, ...]]))
    torch.set_num_threads(1)
    models: LlavaModels = load(BACKBONE)
    rows: list[Row] = []
    for point in points:
        for n_c in (TABLE_1_CLUSTERS,) if point.name == DISTORTION else CLUSTERS:

            def measure(point: Point = point, n_c: int = n_c) -> tuple[Row, ...]:
                print(f"{point.scheme.kind} {point.name}, n_c {n_c}, in {point.folder}", flush=True)
                return (measured(models, point.scheme, point.name, n_c, arguments.pages, point.seed, point.folder),)

            rows += saved.rows(digest(point, n_c, arguments.pages), measure)
    print("\n" + report(rows))


if __name__ == "__main__":
    guarded(main, "compare_ablations")
