"""Trained codecs side by side on held-out pages, at equal bytes: ``python -m recipes.compare_codecs OLD --with NEW``.

The pages are of books that no training uses. Every picture's stream is written and read back, and its questions'
answers cost D (Eq. 10), so that two codecs are compared on the same pictures and questions.

The first group's curve has a point for each training, the mean over its seeds; the intervals are those of
:mod:`recipes.over_seeds`, and have the curve's own scatter in them.
"""

import argparse
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import harness.models.torchvision_ops  # noqa: F401  isort: skip - peft imports transformers
import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import load_file

from harness import catalog
from harness.cli import guarded
from harness.errors import CheckpointError, shown
from harness.files import no_folder
from harness.models import adapter, files
from harness.models.llava import Llava
from harness.models.loading import LlavaModels
from harness.tofc import manifest, trained
from harness.tofc.codec import TofcCodec
from harness.tofc.trained import ADAPTER, CODEC, MANIFEST
from harness.training import result
from harness.training.bundled import Bundled
from harness.training.card import HeldOut, tables
from harness.training.model import SplitModel
from harness.training.reading import Reader
from recipes import held_out, over_seeds

FIRST_BOOK = 210_000
ROWS = TypeAdapter(dict[str, tuple[HeldOut, ...]])
"""What ``--save`` holds."""
_AT_EQUAL_BYTES = """\
D less the first group's at equal bytes. The interval is over pictures and over trainings, of both groups. One 'over
pages alone' does not include the scatter of trainings, because none here has two seeds, and is too narrow."""


class Training(NamedTuple):
    """What a training's folder says of itself: its configuration, and the hash of its codec."""

    folder: Path
    config: Mapping[str, Any]
    backbone: str
    codec: str


def read(folder: Path, first_book: int = FIRST_BOOK) -> Training:
    """A folder's manifest and its codec's header; no weights are loaded.

    Raises CheckpointError for a folder that is no training of a codec around the backbone as it is now, or that
    learned from the pages from ``first_book`` on.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: {no_folder(folder)}; a folder that 'harness train' made is expected")
    found = manifest.read(folder / MANIFEST)
    if not (path := folder / CODEC).is_file():
        raise CheckpointError(
            f"{folder}: has no {CODEC}: it is an adapter without a codec, and codecs are compared here"
        )
    config = found.get("config", {})
    for key in ("name", "lambda", "seed", "clusters"):
        if config.get(key) is None:
            raise CheckpointError(f"{folder / MANIFEST}: its 'config' has no {key}; 'harness train' writes one")
    files.refuse_unreadable(path)
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != TofcCodec.FORMAT:
        raise CheckpointError(
            f"{path}: its format is {shown(metadata.get('format'))}; a codec of {TofcCodec.FORMAT!r} is expected"
        )
    data = config.get("data")
    if data is not None and data["kind"] == "bundled":
        learned = range(data.get("first_book", 0), data.get("first_book", 0) + data.get("books", 1))
        if first_book < learned.stop and learned.start < first_book + held_out.BOOKS:
            raise CheckpointError(
                f"{folder}: learned from the books {learned.start} to {learned.stop - 1}, and the pages are those of "
                f"{first_book} to {first_book + held_out.BOOKS - 1}; give another --first-book"
            )
    backbone = str(found.get("backbone"))
    if (beside := trained.adapter_beside(path, models_of(backbone), files.PARTS)) is not None:
        trained.refuse_unreadable_adapter(beside)
    return Training(folder, config, backbone, str(metadata.get("hash")))


def models_of(backbone: str) -> LlavaModels:
    """The backbone of that name, nothing of it loaded yet."""
    models: LlavaModels = catalog.load("backbone", backbone, catalog.BACKBONES)(backbone)
    return models


def opened(folder: Path) -> tuple[Llava, SplitModel]:
    """The backbone with a training's adapter on it, and the codec: the parts as the scheme ``tofc`` runs them."""
    backbone = models_of(str(manifest.read(folder / MANIFEST)["backbone"])).backbone()
    if (path := folder / ADAPTER).is_dir():
        from peft import set_peft_model_state_dict

        given = files.read_json(path / adapter.CONFIG_NAME)
        peft = adapter.attach(backbone, given["r"], given["lora_alpha"], 0.0)
        weights = load_file(path / adapter.SAFETENSORS_WEIGHTS_NAME)
        set_peft_model_state_dict(peft, {key: tensor.float() for key, tensor in weights.items()})
    module = SplitModel(backbone, TofcCodec.load(folder / CODEC), merged=True).eval()
    backbone.model.requires_grad_(False)
    return backbone, module


def measured(folder: Path, pages: int, first_book: int = FIRST_BOOK) -> tuple[HeldOut, ...]:
    """The rate and distortion of a folder's codec on held-out pages, at each n_c of its training."""
    backbone, module = opened(folder)
    config = Bundled.Config(kind="bundled", first_book=first_book, books=held_out.BOOKS, pages=pages)
    data: Any = Bundled(config, backbone.template)
    clusters = tuple(manifest.read(folder / MANIFEST)["config"]["clusters"])
    reader = Reader(data, backbone, 4096)
    return tuple(result.measure(module, backbone, reader, range(len(data)), clusters, lambda: None))


def by_training(trainings: Sequence[Training]) -> dict[str, list[Training]]:
    """Trainings that differ in their seed alone, by name and lambda.

    Raises CheckpointError where one is there twice, or two of a group have one seed.
    """
    codecs: dict[str, Path] = {}
    for one in trainings:
        if one.codec in codecs:
            raise CheckpointError(
                f"{one.folder}: has the codec of {codecs[one.codec]}; name each training once in a group"
            )
        codecs[one.codec] = one.folder
    groups: dict[str, list[Training]] = {}
    for one in trainings:
        config = {**one.config, "seed": None, "out": None}
        groups.setdefault(json.dumps([one.backbone, config], sort_keys=True), []).append(one)
    named: dict[str, list[Training]] = {}
    for group in groups.values():
        seeds: dict[int, Path] = {}
        for one in group:
            if (seed := one.config["seed"]) in seeds:
                raise CheckpointError(
                    f"{one.folder}: was trained with seed {seed}, and so was {seeds[seed]} of the same configuration; "
                    "trainings of different seeds are expected"
                )
            seeds[seed] = one.folder
        name = f"{group[0].config['name']}, lambda {group[0].config['lambda']:g}"
        named[name if name not in named else f"{name} ({group[0].folder})"] = group
    return named


Seeds = Sequence[Sequence[HeldOut]]
"""The rows of trainings that differ in their seed alone, of each at all its n_c."""


def at_equal_bytes(
    old: Sequence[Seeds], new: Sequence[Seeds]
) -> list[list[tuple[int, float, over_seeds.Difference | None]]]:
    """D of trainings less the old curve's at their bytes: of each, for each n_c, n_c, mean bytes and the difference.

    None where a seed is beyond the curve. A training on both sides is the same one, and differs from itself by nothing.
    """
    found: list[list[tuple[int, float, over_seeds.Difference | None]]] = [[] for _ in new]
    for n_c in sorted({row.n_clusters for seeds in new for rows in seeds for row in rows}):
        compared = _compared(*([_at(n_c, seeds) for seeds in groups] for groups in (old, new)))
        for rows, seeds, one in zip(found, (_at(n_c, seeds) for seeds in new), compared, strict=True):
            if seeds:
                rows.append((n_c, float(np.mean([row.bytes_per_image for row in seeds])), one))
    return found


def _at(n_c: int, seeds: Seeds) -> list[HeldOut]:
    return [row for rows in seeds for row in rows if row.n_clusters == n_c]


def _compared(old: Sequence[list[HeldOut]], new: Sequence[list[HeldOut]]) -> list[over_seeds.Difference | None]:
    """The difference of each of ``new``, seeds at one n_c, from the curve through the means over seeds of ``old``."""
    old = [seeds for seeds in old if seeds]
    curve = [np.mean([row.of_pictures for row in seeds], 0) for seeds in old]
    less = [[over_seeds.less_than_curve(row.of_pictures, curve) for row in seeds] for seeds in new]
    within = [[one for one in of_seeds if one is not None] for of_seeds in less]
    # The curve's own seeds scatter around it too, and may lie just beyond its ends.
    own = [
        [over_seeds.less_than_curve(row.of_pictures, curve, beyond=True) for row in seeds]
        for seeds in old
        if seeds not in new
    ]
    pooled = over_seeds.scatter([*(group for group in within if len(group) > 1), *own])
    found: list[over_seeds.Difference | None] = []
    for seeds, of_seeds, group in zip(new, less, within, strict=True):
        if not group or len(group) < len(of_seeds):
            found.append(None)
            continue
        weight_K = np.mean([over_seeds.curve_weights(row.of_pictures, curve) for row in seeds], 0)
        shares = [(row, w / len(point)) for point, w in zip(old, weight_K, strict=True) for row in point]
        mine = [1 / len(seeds) - sum(share for other, share in shares if other == row) for row in seeds]
        others = [share for row, share in shares if row not in seeds]
        found.append(
            over_seeds.difference(
                group,
                pooled=pooled,
                own_share=float(np.square(mine).sum()),
                curve_share=float(np.square(others).sum()),
            )
        )
    return found


def deviations(groups: Mapping[str, Seeds]) -> list[tuple[str, int, int, float, float, float, float]]:
    """Of trainings that differ in their seed alone: name, n_c, seeds, and mean and deviation of bytes and of D."""
    found = []
    for name, seeds in groups.items():
        if len(seeds) == 1:
            continue
        for of_seeds in zip(*seeds, strict=True):
            bytes_S, loss_S = (
                np.array([getattr(r, key) for r in of_seeds]) for key in ("bytes_per_image", "distortion")
            )
            numbers = (bytes_S.mean(), bytes_S.std(ddof=1), loss_S.mean(), loss_S.std(ddof=1))
            found.append((name, of_seeds[0].n_clusters, len(seeds), *map(float, numbers)))
    return found


def digest(training: Training, pages: int, first_book: int) -> str:
    """The digest of all that decides a folder's rows; see :mod:`recipes.held_out`."""
    folder, models = training.folder, models_of(training.backbone)
    clusters = training.config["clusters"]
    adapted = [folder / ADAPTER / name for name in (adapter.CONFIG_NAME, adapter.SAFETENSORS_WEIGHTS_NAME)]
    paths = [path for path in (folder / CODEC, *adapted) if path.is_file()]
    # Of the manifest only what decides the rows: a fact that is added to it measures nothing again.
    return held_out.digest(paths, pages, first_book, clusters, *(models.fingerprint(part) for part in files.PARTS))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables of each folder, and the comparison of the two groups."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", nargs="+", type=Path, help="trainings' folders")
    parser.add_argument("--with", dest="others", nargs="*", type=Path, default=[], help="compared with the others")
    parser.add_argument("--first-book", type=int, default=FIRST_BOOK, help="of pages that nothing learned from")
    arguments = held_out.parsed(parser, argv, FIRST_BOOK)
    trainings = {
        folder: read(folder, arguments.first_book) for folder in dict.fromkeys((*arguments.folders, *arguments.others))
    }
    old, new = (
        by_training([trainings[folder] for folder in folders]) for folders in (arguments.folders, arguments.others)
    )
    first = trainings[arguments.folders[0]]
    for one in trainings.values() if new else ():
        if one.backbone != first.backbone:
            raise CheckpointError(
                f"{one.folder}: is a codec of {one.backbone}, and {first.folder} of {first.backbone}; codecs of one "
                "backbone are compared"
            )
    saved = held_out.Saved(arguments.save, ROWS)
    torch.set_num_threads(1)
    rows: dict[Path, tuple[HeldOut, ...]] = {}
    for folder, training in trainings.items():
        given = (arguments.pages, arguments.first_book)
        rows[folder] = saved.rows(digest(training, *given), functools.partial(measured, folder, *given))
        print(f"## {folder}\n\n{tables(rows[folder])}\n", flush=True)
    old_rows, new_rows = (
        {name: [rows[one.folder] for one in group] for name, group in groups.items()} for groups in (old, new)
    )
    print(report(old_rows, new_rows))


def report(old: Mapping[str, Seeds], new: Mapping[str, Seeds]) -> str:
    """The scatter over seeds in each group, and the second group's D less that of the first at equal bytes."""
    lines = []
    if several := deviations(old) + deviations(new):
        lines += ["| training | n_c | seeds | bytes an image | deviation over seeds | D | deviation over seeds |"]
        lines += ["|---|---|---|---|---|---|---|"]
    for name, n_c, n_seeds, n_bytes, sd_bytes, loss, sd_loss in several:
        lines.append(f"| {name} | {n_c} | {n_seeds} | {n_bytes:.0f} | {sd_bytes:.1f} | {loss:.4f} | {sd_loss:.4f} |")
    if new:
        lines += ["", _AT_EQUAL_BYTES, ""]
        lines += ["| training | n_c | bytes an image | D less | 95 % interval | seeds |", "|---|---|---|---|---|---|"]
    for (name, seeds), found in zip(new.items(), at_equal_bytes([*old.values()], [*new.values()]), strict=True):
        for n_c, n_bytes, compared in found:
            text = f"beyond its curve | - | {len(seeds)}" if compared is None else compared
            lines.append(f"| {name} | {n_c} | {n_bytes:.0f} | {text} |")
    return "\n".join(lines)


if __name__ == "__main__":
    guarded(main, "compare_codecs")
