"""The result of a training: a folder with codec, adapter and their description, for the scheme that uses them.

P patches   C clusters   D dimension
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.models import adapter
from harness.models.contract import Part
from harness.models.files import PARTS
from harness.models.llava import LlavaVision
from harness.runs import digests, provenance
from harness.runs.disk import write_text
from harness.tofc import manifest
from harness.tofc.feature_codec import FeatureCodec
from harness.tofc.merging import merge
from harness.tofc.trained import ADAPTER, CARD, CODEC, MANIFEST, REDUCER, adapter_hash
from harness.training import recipe
from harness.training.card import HeldOut, Reduced, card
from harness.training.checkpoint import write_halves
from harness.training.codec import feature_distortion
from harness.training.config import TrainingConfig
from harness.training.load import as_given, config_hash
from harness.training.model import Batch, SplitModel, features
from harness.training.reading import Key, Reader

FILES = (CODEC, ADAPTER, REDUCER, CARD, MANIFEST)


@torch.inference_mode()
def freeze(
    codec: FeatureCodec, backbone: LlavaVision, reader: Reader, seen: Sequence[int], clusters: Sequence[int]
) -> None:
    """Derive the codec's integers, its table of models from their use on ``seen`` examples."""
    everything = []
    for index in seen:
        x_PVD, _ = _features(backbone, reader, index)
        everything += [merge(x_PVD, n_c).y_PCD.flatten(0, 1) for n_c in clusters]
    codec.eval().freeze(torch.cat(everything)[None])


def _features(backbone: LlavaVision, reader: Reader, index: int) -> tuple[Tensor, tuple[int, int]]:
    """All features of an example's picture, float32, and its grid."""
    read = reader.data.example(index, 0).image
    assert read is not None
    tiles = backbone.preprocess(read())
    return backbone.encode(tiles).float(), tiles.layout.grid


@torch.inference_mode()
def measure(
    module: SplitModel,
    backbone: LlavaVision,
    reader: Reader,
    held_out: Sequence[int],
    clusters: Sequence[int],
    on_picture: Callable[[], None],
) -> list[HeldOut]:
    """Measure a frozen codec on examples that were not trained on, the networks as at inference: without autocast."""
    codec = module.codec
    assert codec is not None
    n_experts = getattr(codec.config, "n_experts", 1)
    rows: dict[int, list[tuple[Any, ...]]] = {n_c: [] for n_c in clusters}
    use = {n_c: torch.zeros(n_experts, dtype=torch.int64) for n_c in clusters}
    kept: dict[int, list[tuple[Tensor, Tensor]]] = {n_c: [] for n_c in clusters}
    for index in held_out:
        x_PVD, grid = _features(backbone, reader, index)
        _, scripts = reader[Key(index, 0)]
        for n_c in clusters:
            y_PCD = merge(x_PVD, n_c).y_PCD
            stream = codec.compress(y_PCD, grid)
            # A server's limits are not those of what was just written: a picture may have more patches.
            decoded = codec.decompress(stream, limits=None)
            losses: tuple[float | None, ...] = (None, None, None)
            if scripts:
                batch = Batch([y_PCD], [scripts])
                (loss,), right = module.answers(batch, [decoded.y_PCD])
                (merged_loss,), _ = module.answers(batch, [y_PCD])
                losses = (float(loss), float(merged_loss), float(right))
            size, budget = len(stream), decoded.budget
            parts = (budget.header_bits, budget.expert_bits, budget.z_bits, budget.y_bits)
            rows[n_c].append((size, 8 * size / y_PCD.numel(), *losses, budget.z_bits / budget.total_bits, *parts))
            use[n_c] += decoded.expert_PC.flatten().bincount(minlength=n_experts)
            kept[n_c].append((decoded.y_PCD, y_PCD))
        on_picture()
    found = []
    for n_c in clusters:
        means: list[Any] = [
            None if column[0] is None else sum(column) / len(column) for column in zip(*rows[n_c], strict=True)
        ]
        returned, sent = (torch.cat(column) for column in zip(*kept[n_c], strict=True))
        lost = float(feature_distortion(returned, sent))
        used = tuple(use[n_c].tolist())
        of_pictures = tuple((int(row[0]), round(row[2], 5)) for row in rows[n_c] if row[2] is not None)
        found.append(HeldOut._make([n_c, *means[:5], lost, means[5], used, *means[6:], of_pictures]))
    return found


@torch.inference_mode()
def measure_reduced(
    module: SplitModel,
    backbone: LlavaVision,
    reader: Reader,
    held_out: Sequence[int],
    clusters: Sequence[int],
    untuned: Callable[[], AbstractContextManager[Any]],
    on_picture: Callable[[], None],
) -> list[Reduced]:
    """Measure a tuned backbone on examples that were not trained on; within ``untuned`` it is untuned."""
    rows: dict[int, list[tuple[float, float, float]]] = {n_c: [] for n_c in clusters}
    for index in held_out:
        pixels, scripts = reader[Key(index, 0)]
        assert pixels is not None

        def answered(n_c: int, pixels: Tensor = pixels, scripts: Any = scripts) -> tuple[float, float]:
            x_PVD, attention = features(backbone, pixels.to(backbone.device), attended=module.reducer.attended)
            y_PCD = module.reducer(x_PVD.float(), n_c, attention)
            (loss,), right = module.answers(Batch([y_PCD], [scripts]), [y_PCD])
            return float(loss), float(right)

        for n_c in clusters:
            loss, right = answered(n_c)
            with untuned():
                untuned_loss, _ = answered(n_c)
            rows[n_c].append((loss, untuned_loss, right))
        on_picture()
    found = []
    for n_c in clusters:
        loss, untuned_loss, right = (sum(column) / len(column) for column in zip(*rows[n_c], strict=True))
        of_pictures = tuple((round(a, 5), round(b, 5)) for a, b, _ in rows[n_c])
        found.append(Reduced(n_c, loss, untuned_loss, right, of_pictures))
    return found


def write(
    folder: Path,
    config: TrainingConfig,
    *,
    codec: FeatureCodec | None,
    reducer: Any,
    peft: Any,
    backbone: LlavaVision,
    base: Mapping[Part, str],
    data: str,
    steps: tuple[int, int],
    seconds: float,
    processes: int,
    measured: Sequence[HeldOut] | Sequence[Reduced],
    machine: Mapping[str, Any],
) -> None:
    """Codec or reducer, adapter, card, and last the manifest: a folder that has one is complete."""
    if peft is not None:
        adapter.save(peft, folder / ADAPTER, backbone.name)
    if codec is not None and config.codec is not None:
        codec.save(folder / CODEC, networks=config.codec.keep_networks)
    if reducer is not None:
        write_halves(folder / REDUCER, reducer, {"config": reducer.config.model_dump_json()})
    facts = {
        "name": config.name,
        "stage": config.stage,
        "config": as_given(config),
        "config_hash": config_hash(config),
        "recipe": {
            "name": recipe.recipe_of(config),
            "additions": recipe.additions(config),
            "departures": recipe.departures(config),
        },
        "backbone": backbone.name,
        "fingerprints": dict(base),
        **({} if codec is None else {"codec_hash": codec.frozen.digest}),
        **({} if peft is None else {"adapter_hash": adapter_hash(folder / ADAPTER)}),
        **({} if reducer is None else {"reducer_hash": digests.of_file(folder / REDUCER)}),
        "data": data,
        "steps": {"prefit": steps[0], "joint": steps[1]},
        "held_out": {"pictures": config.held_out, "rows": [row._asdict() for row in measured]},
        **came_from(config.seed, seconds, processes, machine),
        "finished_utc": provenance.utc_now(),
        "packages": provenance.package_versions(),
    }
    write_text(folder / CARD, card(config, facts, measured))
    write_text(folder / MANIFEST, json.dumps(facts, indent=2) + "\n")


def came_from(seed: int, seconds: float, processes: int, machine: Mapping[str, Any]) -> dict[str, Any]:
    """How weights were made: seed, seconds of training, processes, the machine, and this code's commit."""
    commit, dirty = provenance.checkout(Path(__file__).parents[2])
    return {
        "seed": seed,
        "seconds": round(seconds),
        "processes": processes,
        "commit": commit,
        "dirty": dirty,
        "machine": dict(machine),
    }


def identity_of(config_hash: str, fingerprints: Mapping[Part, str], data: str) -> str:
    """Which training a configuration is, around a backbone's weights and on data."""
    return f"{config_hash} on {' '.join(fingerprints[part] for part in PARTS)} with {data}"


def identity(folder: Path) -> str | None:
    """Which training a folder is the result of; None where it holds none."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    found = manifest.read(path)
    return identity_of(str(found.get("config_hash")), found["fingerprints"], str(found.get("data")))


def summary(folder: Path) -> str:
    """What a complete folder's codec costs and loses at each n_c, or what merging loses."""
    found = manifest.read(folder / MANIFEST)
    return "; ".join(f"n_c {row['n_clusters']}: {_sentence(row)}" for row in found["held_out"]["rows"])


def _sentence(row: Mapping[str, Any]) -> str:
    if "untuned_distortion" in row:
        return f"D {row['distortion']:.3f} ({row['untuned_distortion']:.3f} as it was)"
    lost = (
        f"squared error {row['feature_distortion']:.3f} of the variance"
        if row["distortion"] is None
        else f"D {row['distortion']:.3f} ({row['merged_distortion']:.3f} uncoded)"
    )
    return f"{row['bytes_per_image']:.0f} bytes an image, R {row['rate']:.3f}, {lost}"
