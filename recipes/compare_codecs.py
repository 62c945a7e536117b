"""Trained codecs side by side on held-out pages, at equal bytes: ``python -m recipes.compare_codecs OLD --with NEW``.

The pages are of books that no training uses. Every picture's stream is written and read back, and its questions'
answers cost D (Eq. 10), so that two codecs are compared on the same pictures and questions.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - peft imports transformers
import numpy as np
import torch
from safetensors.torch import load_file

from harness import catalog
from harness.cli import guarded
from harness.models import adapter, files
from harness.models.llava import Llava
from harness.runs import disk
from harness.tofc.codec import TofcCodec
from harness.tofc.trained import ADAPTER, CODEC, MANIFEST, manifest
from harness.training import result
from harness.training.bundled import Bundled
from harness.training.card import HeldOut, tables
from harness.training.model import SplitModel
from harness.training.reading import Reader

FIRST_BOOK = 210_000
_RESAMPLES = 2000


def opened(folder: Path) -> tuple[Llava, SplitModel]:
    """The backbone with a training's adapter on it, and the codec: the parts as the scheme ``tofc`` runs them."""
    name = str(manifest(folder / MANIFEST)["backbone"])
    backbone: Llava = catalog.load("backbone", name, catalog.BACKBONES)(name).backbone()
    if (path := folder / ADAPTER).is_dir():
        from peft import set_peft_model_state_dict

        given = files.read_json(path / adapter.CONFIG_NAME)
        peft = adapter.attach(backbone, given["r"], given["lora_alpha"], 0.0)
        weights = load_file(path / adapter.SAFETENSORS_WEIGHTS_NAME)
        set_peft_model_state_dict(peft, {key: tensor.float() for key, tensor in weights.items()})
    module = SplitModel(backbone, TofcCodec.load(folder / CODEC), merged=True).eval()
    backbone.model.requires_grad_(False)
    return backbone, module


def measured(folder: Path, pages: int, first_book: int = FIRST_BOOK) -> list[HeldOut]:
    """What a folder's codec costs and loses on held-out pages, at each n_c of its training."""
    backbone, module = opened(folder)
    data: Any = Bundled(Bundled.Config(kind="bundled", first_book=first_book, books=8, pages=pages), backbone.template)
    clusters = tuple(manifest(folder / MANIFEST)["config"]["clusters"])
    reader = Reader(data, backbone, 4096)
    return result.measure(module, backbone, reader, range(len(data)), clusters, lambda: None)


Pictures = Sequence[tuple[int, float]]
"""Bytes and D of each picture."""


def against_curve(point: Pictures, curve: Sequence[Pictures], seed: int = 0) -> tuple[float, float, float] | None:
    """A point's D less a curve's at the point's bytes, and its 95 % bootstrap interval; None beyond the curve.

    The curve's D is interpolated in the logarithm of its points' bytes; pictures are drawn alike for all.
    """
    mine_PX = np.array(point)
    table_KPX = np.array(sorted(curve, key=lambda of_pictures: np.mean(of_pictures, 0)[0]))
    n_pictures = len(mine_PX)

    def less(drawn: Any) -> float:
        of_curve_KX, of_point_X = table_KPX[:, drawn].mean(1), mine_PX[drawn].mean(0)
        return float(of_point_X[1] - np.interp(np.log(of_point_X[0]), np.log(of_curve_KX[:, 0]), of_curve_KX[:, 1]))

    if not len(table_KPX) or not table_KPX[0, :, 0].mean() <= mine_PX[:, 0].mean() <= table_KPX[-1, :, 0].mean():
        return None
    rng = np.random.default_rng(seed)
    low, high = np.quantile([less(rng.integers(0, n_pictures, n_pictures)) for _ in range(_RESAMPLES)], [0.025, 0.975])
    return less(np.arange(n_pictures)), float(low), float(high)


def at_equal_bytes(
    old: Sequence[HeldOut], new: Sequence[HeldOut]
) -> list[tuple[int, float, tuple[float, float, float]]]:
    """For each new point within the old curve's bytes at its n_c: n_c, bytes, and what :func:`against_curve` says."""
    found = []
    for row in sorted(new, key=lambda r: r.n_clusters):
        compared = against_curve(row.of_pictures, [r.of_pictures for r in old if r.n_clusters == row.n_clusters])
        if compared is not None:
            found.append((row.n_clusters, row.bytes_per_image, compared))
    return found


def scatter(rows: Mapping[Path, Sequence[HeldOut]]) -> list[tuple[str, int, int, float, float, float, float]]:
    """Of trainings that differ in their seed alone: name, n_c, seeds, and mean and deviation of bytes and of D."""
    groups: dict[str, list[Path]] = {}
    for folder in rows:
        config = {**manifest(folder / MANIFEST)["config"], "seed": None}
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(folder)
    found = []
    for text, folders in groups.items():
        if len(folders) == 1:
            continue
        given = json.loads(text)
        for of_seeds in zip(*(rows[folder] for folder in folders), strict=True):
            bytes_S, loss_S = (
                np.array([getattr(r, key) for r in of_seeds]) for key in ("bytes_per_image", "distortion")
            )
            name = f"{given['name']}, lambda {given['lambda']:g}"
            numbers = (bytes_S.mean(), bytes_S.std(ddof=1), loss_S.mean(), loss_S.std(ddof=1))
            found.append((name, of_seeds[0].n_clusters, len(folders), *map(float, numbers)))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables of each folder, and the comparison of the two groups."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", nargs="+", type=Path, help="trainings' folders")
    parser.add_argument("--with", dest="others", nargs="*", type=Path, default=[], help="compared with the others")
    parser.add_argument("--pages", type=int, default=96)
    parser.add_argument("--first-book", type=int, default=FIRST_BOOK, help="of pages that nothing learnt from")
    parser.add_argument("--save", type=Path, help="a JSON file for the rows")
    arguments = parser.parse_args(argv)
    if arguments.save:
        disk.check_writable(arguments.save)
    torch.set_num_threads(1)
    rows: dict[Path, list[HeldOut]] = {}
    for folder in (*arguments.folders, *arguments.others):
        rows[folder] = measured(folder, arguments.pages, arguments.first_book)
        print(f"## {folder}\n\n{tables(rows[folder])}\n", flush=True)
    if arguments.save:
        text = json.dumps({str(f): [r._asdict() for r in found] for f, found in rows.items()})
        disk.write_text(arguments.save, text)
    if several := scatter(rows):
        print("| training | n_c | seeds | bytes an image | deviation over seeds | D | deviation over seeds |")
        print("|---|---|---|---|---|---|---|")
    for name, n_c, seeds, n_bytes, sd_bytes, loss, sd_loss in several:
        print(f"| {name} | {n_c} | {seeds} | {n_bytes:.0f} | {sd_bytes:.1f} | {loss:.4f} | {sd_loss:.4f} |")
    old, new = ([row for folder in group for row in rows[folder]] for group in (arguments.folders, arguments.others))
    if new:
        print("| n_c | bytes an image | D less the first group's at equal bytes | 95 % interval over pictures |")
        print("|---|---|---|---|")
    for n_c, n_bytes, (less, low, high) in at_equal_bytes(old, new):
        print(f"| {n_c} | {n_bytes:.0f} | {less:+.4f} | {low:+.4f} to {high:+.4f} |")


if __name__ == "__main__":
    guarded(main, "compare_codecs")
