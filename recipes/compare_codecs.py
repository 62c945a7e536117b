"""Trained codecs side by side on held-out pages, at equal bytes: ``python -m recipes.compare_codecs OLD --with NEW``.

The pages are of books that no training uses. Every picture's stream is written and read back, and its questions'
answers cost D (Eq. 10), so that two codecs are compared on the same pictures and questions.
"""

import argparse
import hashlib
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
from recipes import over_seeds

FIRST_BOOK = 210_000


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
    """The rate and distortion of a folder's codec on held-out pages, at each n_c of its training."""
    backbone, module = opened(folder)
    data: Any = Bundled(Bundled.Config(kind="bundled", first_book=first_book, books=8, pages=pages), backbone.template)
    clusters = tuple(manifest(folder / MANIFEST)["config"]["clusters"])
    reader = Reader(data, backbone, 4096)
    return result.measure(module, backbone, reader, range(len(data)), clusters, lambda: None)


def by_training(rows: Mapping[Path, Sequence[HeldOut]]) -> dict[str, list[Path]]:
    """The folders of trainings that differ in their seed alone, by name and lambda."""
    groups: dict[str, list[Path]] = {}
    for folder in rows:
        config = {**manifest(folder / MANIFEST)["config"], "seed": None, "out": None}
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(folder)
    named: dict[str, list[Path]] = {}
    for text, folders in groups.items():
        given = json.loads(text)
        name = f"{given['name']}, lambda {given['lambda']:g}"
        named[name if name not in named else f"{name} ({folders[0].name})"] = folders
    return named


def at_equal_bytes(
    old: Sequence[HeldOut], new: Sequence[Sequence[HeldOut]]
) -> list[tuple[int, float, over_seeds.Difference | None]]:
    """D of a training's seeds less the old curve's at their bytes, for each n_c: n_c, mean bytes, and the difference.

    None where a seed is beyond the curve.
    """
    found = []
    for of_seeds in sorted(zip(*new, strict=True), key=lambda rows: rows[0].n_clusters):
        curve = [row.of_pictures for row in old if row.n_clusters == of_seeds[0].n_clusters]
        less = [over_seeds.less_than_curve(row.of_pictures, curve) for row in of_seeds]
        compared = None if any(one is None for one in less) else over_seeds.difference(less)
        found.append((of_seeds[0].n_clusters, float(np.mean([row.bytes_per_image for row in of_seeds])), compared))
    return found


def scatter(rows: Mapping[Path, Sequence[HeldOut]]) -> list[tuple[str, int, int, float, float, float, float]]:
    """Of trainings that differ in their seed alone: name, n_c, seeds, and mean and deviation of bytes and of D."""
    found = []
    for name, folders in by_training(rows).items():
        if len(folders) == 1:
            continue
        for of_seeds in zip(*(rows[folder] for folder in folders), strict=True):
            bytes_S, loss_S = (
                np.array([getattr(r, key) for r in of_seeds]) for key in ("bytes_per_image", "distortion")
            )
            numbers = (bytes_S.mean(), bytes_S.std(ddof=1), loss_S.mean(), loss_S.std(ddof=1))
            found.append((name, of_seeds[0].n_clusters, len(folders), *map(float, numbers)))
    return found


def saved(path: Path | None) -> dict[str, list[HeldOut]]:
    """The rows of an earlier call, by the digest of what they were measured of."""
    if path is None or not path.is_file():
        return {}
    return {key: [row_of(row) for row in rows] for key, rows in files.read_json(path).items()}


def row_of(row: Mapping[str, Any]) -> HeldOut:
    """A row as JSON holds it."""
    pictures = tuple((int(n_bytes), float(loss)) for n_bytes, loss in row["of_pictures"])
    return HeldOut(**{**row, "expert_use": tuple(row["expert_use"]), "of_pictures": pictures})


def digest(folder: Path, pages: int, first_book: int) -> str:
    """The digest of all that decides a folder's rows."""
    found = hashlib.sha256(f"{pages} {first_book}".encode())
    for path in (folder / CODEC, folder / ADAPTER / adapter.SAFETENSORS_WEIGHTS_NAME, folder / MANIFEST):
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables of each folder, and the comparison of the two groups."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", nargs="+", type=Path, help="trainings' folders")
    parser.add_argument("--with", dest="others", nargs="*", type=Path, default=[], help="compared with the others")
    parser.add_argument("--pages", type=int, default=96)
    parser.add_argument("--first-book", type=int, default=FIRST_BOOK, help="of pages that nothing learnt from")
    parser.add_argument("--save", type=Path, help="a JSON file for the rows; what it holds is not measured again")
    arguments = parser.parse_args(argv)
    if arguments.pages < 2:
        parser.error(f"--pages {arguments.pages}: an interval over pages needs at least 2")
    if arguments.save:
        disk.check_writable(arguments.save)
    torch.set_num_threads(1)
    known = saved(arguments.save)
    rows: dict[Path, list[HeldOut]] = {}
    for folder in (*arguments.folders, *arguments.others):
        key = digest(folder, arguments.pages, arguments.first_book)
        if key not in known:
            known[key] = measured(folder, arguments.pages, arguments.first_book)
            if arguments.save:
                text = json.dumps({name: [r._asdict() for r in found] for name, found in known.items()})
                disk.write_text(arguments.save, text)
        rows[folder] = known[key]
        print(f"## {folder}\n\n{tables(rows[folder])}\n", flush=True)
    others = {folder: rows[folder] for folder in arguments.others}
    old_rows = {folder: found for folder, found in rows.items() if folder not in others}
    if several := scatter(old_rows) + scatter(others):
        print("| training | n_c | seeds | bytes an image | deviation over seeds | D | deviation over seeds |")
        print("|---|---|---|---|---|---|---|")
    for name, n_c, seeds, n_bytes, sd_bytes, loss, sd_loss in several:
        print(f"| {name} | {n_c} | {seeds} | {n_bytes:.0f} | {sd_bytes:.1f} | {loss:.4f} | {sd_loss:.4f} |")
    if arguments.others:
        print("\nD less the first group's at equal bytes; the interval is over pictures, and over seeds from two on.\n")
        print("| training | n_c | bytes an image | D less | 95 % interval | seeds |\n|---|---|---|---|---|---|")
    old = [row for found in old_rows.values() for row in found]
    for name, folders in by_training(others).items():
        for n_c, n_bytes, compared in at_equal_bytes(old, [others[folder] for folder in folders]):
            shown = f"beyond its curve | - | {len(folders)}" if compared is None else compared
            print(f"| {name} | {n_c} | {n_bytes:.0f} | {shown} |")


if __name__ == "__main__":
    guarded(main, "compare_codecs")
