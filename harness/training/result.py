"""What a training leaves: a folder with the codec, the adapter, and what they are; for the scheme that uses them.

P patches   C clusters   D dimension
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.models import adapter
from harness.models.contract import Part
from harness.models.files import PARTS
from harness.models.llava import Llava
from harness.runs import provenance
from harness.runs.disk import write_text
from harness.tofc.codec import TofcCodec
from harness.tofc.merging import merge
from harness.tofc.trained import ADAPTER, CARD, CODEC, MANIFEST, manifest
from harness.training import recipe
from harness.training.codec import feature_distortion
from harness.training.config import TrainingConfig
from harness.training.load import as_given, config_hash
from harness.training.model import Batch, SplitModel
from harness.training.reading import Key, Reader

FILES = (CODEC, ADAPTER, CARD, MANIFEST)


class HeldOut(NamedTuple):
    """Means over held-out pictures at one n_c, of streams that were written and read back.

    ``distortion`` and ``right`` are D (Eq. 10) and the share of answer tokens that are right; ``merged_distortion`` is
    D of the same features uncoded; ``rate`` is in bits per element of y, headers included. ``z_share`` is the mean of
    the streams' shares; ``expert_use`` counts the features of each model; then follows where a stream's bits go, and
    the bytes and D of each picture.
    """

    n_clusters: int
    bytes_per_image: float
    rate: float
    distortion: float
    merged_distortion: float
    right: float
    feature_distortion: float
    z_share: float
    expert_use: tuple[int, ...]
    header_bits: float
    expert_bits: float
    z_bits: float
    y_bits: float
    of_pictures: tuple[tuple[int, float], ...]


@torch.inference_mode()
def freeze(codec: TofcCodec, backbone: Llava, reader: Reader, seen: Sequence[int], clusters: Sequence[int]) -> None:
    """Derive the codec's integers, its table of models from their use on ``seen`` examples."""
    everything = []
    for index in seen:
        x_PVD, _ = _features(backbone, reader, index)
        everything += [merge(x_PVD, n_c).y_PCD.flatten(0, 1) for n_c in clusters]
    codec.eval().freeze(torch.cat(everything)[None])


def _features(backbone: Llava, reader: Reader, index: int) -> tuple[Tensor, tuple[int, int]]:
    """All features of an example's picture, float32, and its grid."""
    read = reader.data.example(index, 0).image
    assert read is not None
    tiles = backbone.preprocess(read())
    return backbone.encode(tiles).float(), tiles.layout.grid


@torch.inference_mode()
def measure(
    module: SplitModel,
    backbone: Llava,
    reader: Reader,
    held_out: Sequence[int],
    clusters: Sequence[int],
    on_picture: Callable[[], None],
) -> list[HeldOut]:
    """Measure a frozen codec on examples that were not trained on, the networks as at inference: without autocast."""
    codec = module.codec
    rows: dict[int, list[tuple[float, ...]]] = {n_c: [] for n_c in clusters}
    use = {n_c: torch.zeros(codec.config.n_experts, dtype=torch.int64) for n_c in clusters}
    kept: dict[int, list[tuple[Tensor, Tensor]]] = {n_c: [] for n_c in clusters}
    for index in held_out:
        x_PVD, grid = _features(backbone, reader, index)
        _, scripts = reader[Key(index, 0)]
        for n_c in clusters:
            y_PCD = merge(x_PVD, n_c).y_PCD
            stream = codec.compress(y_PCD, grid)
            decoded = codec.decompress(stream)
            batch = Batch([y_PCD], [scripts])
            (loss,), right = module.answers(batch, [decoded.y_PCD])
            (merged_loss,), _ = module.answers(batch, [y_PCD])
            size, budget = len(stream), decoded.budget
            parts = (budget.header_bits, budget.expert_bits, budget.z_bits, budget.y_bits)
            losses = (float(loss), float(merged_loss), float(right))
            rows[n_c].append((size, 8 * size / y_PCD.numel(), *losses, budget.z_bits / budget.total_bits, *parts))
            use[n_c] += decoded.expert_PC.flatten().bincount(minlength=codec.config.n_experts)
            kept[n_c].append((decoded.y_PCD, y_PCD))
        on_picture()
    found = []
    for n_c in clusters:
        size, rate, loss, merged_loss, right, z_share, header, expert, z, y = (
            sum(column) / len(column) for column in zip(*rows[n_c], strict=True)
        )
        returned, sent = (torch.cat(column) for column in zip(*kept[n_c], strict=True))
        lost = float(feature_distortion(returned, sent))
        used = tuple(use[n_c].tolist())
        of_pictures = tuple((int(row[0]), round(row[2], 5)) for row in rows[n_c])
        means = (size, rate, loss, merged_loss, right, lost, z_share)
        found.append(HeldOut(n_c, *means, used, header, expert, z, y, of_pictures))
    return found


def write(
    folder: Path,
    config: TrainingConfig,
    *,
    codec: TofcCodec,
    peft: Any,
    backbone: Llava,
    base: Mapping[Part, str],
    data: str,
    steps: tuple[int, int],
    seconds: float,
    processes: int,
    measured: Sequence[HeldOut],
    machine: Mapping[str, Any],
) -> None:
    """Codec, adapter, card, and last the manifest: a folder that has one is complete."""
    if peft is not None:
        adapter.save(peft, folder / ADAPTER, backbone.name)
    unfinished = folder / f"{CODEC}.part"
    codec.save(unfinished, networks=config.codec.keep_networks)
    unfinished.replace(folder / CODEC)
    facts = {
        "name": config.name,
        "config": as_given(config),
        "config_hash": config_hash(config),
        "recipe": {
            "name": recipe.recipe_of(config),
            "additions": recipe.additions(config),
            "departures": recipe.departures(config),
        },
        "backbone": backbone.name,
        "fingerprints": dict(base),
        "codec_hash": codec.frozen.digest,
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


def origin(facts: Mapping[str, Any]) -> str:
    """:func:`came_from` as a card says it."""
    commit = facts["commit"]
    code = "unknown" if commit is None else commit[:9] + ("+changes" if facts["dirty"] else "")
    return (
        f"Seed {facts['seed']}, commit {code}; {facts['seconds'] / 60:.1f} minutes of training in processes: "
        f"{facts['processes']}, on {facts['machine'].get('name', 'unknown machine')}, torch {torch.__version__}"
    )


def card(config: TrainingConfig, facts: Mapping[str, Any], measured: Sequence[HeldOut]) -> str:
    """The folder's contents for a reader."""
    tuned = (
        f"LoRA of rank {config.lora.rank} on vision tower and language model, and the projector, in `{ADAPTER}/` as "
        "peft saves them"
        if config.lora.rank
        else "the backbone is frozen, where the paper adapts it too"
    )
    steps = facts["steps"]
    fingerprints = ", ".join(f"{part} {facts['fingerprints'][part]}" for part in PARTS)
    name = recipe.recipe_of(config)
    added = "\n".join(f"- {text}" for text in recipe.additions(config))
    departed = "\n".join(f"- {text}" for text in recipe.departures(config))
    about = f"Recipe `{name}`: Algorithm 1" + (", and what it adds to it:\n\n" + added if added else " as it stands.")
    samples = steps["prefit"] * config.prefit.batch, steps["joint"] * config.batch
    return f"""# {config.name}: a TOFC codec of {config.backbone}

{config.codec.experts} selectable entropy models and their router in `{CODEC}`; {tuned}. Trained by `harness train`
with lambda = {config.rate_weight:g}: {steps["prefit"]} steps of {config.prefit.batch} pictures on cached features with
the backbone frozen ({samples[0]} samples), then {steps["joint"]} steps of {config.batch} examples ({samples[1]}
samples).

{about}

Other departures from the paper's numbers (V-A):

{departed or "- none"}

- Data: {facts["data"]}.
- Backbone's weights: fingerprints {fingerprints}.
- {origin(facts)}.

On {config.held_out} pictures held out of training: real streams, written and read back. D is the answers' cross entropy
(Eq. 10); R the stream's bits per element of y, headers included; error is the features', squared.

{tables(measured)}
"""


def tables(measured: Sequence[HeldOut]) -> str:
    """What streams cost and lose, where their bits go, and how many features each entropy model has, for each n_c."""
    rows = [
        "| n_c | bytes an image | R | D | D uncoded | tokens right | error over variance |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row.n_clusters} | {row.bytes_per_image:.0f} | {row.rate:.3f} | {row.distortion:.3f} "
            f"| {row.merged_distortion:.3f} | {100 * row.right:.1f} % | {row.feature_distortion:.3f} |"
            for row in measured
        ),
        "",
        "Bits of an image's stream by part, and the share of all features that each model codes, most used first:",
        "",
        "| n_c | header | models' indices | z | y | z's share | features | of each model, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in measured:
        features = sum(row.expert_use)
        shares = ", ".join(f"{100 * used / features:.1f}" for used in sorted(row.expert_use, reverse=True))
        rows.append(
            f"| {row.n_clusters} | {row.header_bits:.0f} | {row.expert_bits:.0f} | {row.z_bits:.0f} | {row.y_bits:.0f} "
            f"| {100 * row.z_share:.1f} % | {features} | {shares} |"
        )
    use_E = [sum(used) for used in zip(*(row.expert_use for row in measured), strict=True)]
    least, unused = min(use_E) / sum(use_E), sum(not used for used in use_E)
    rows += ["", f"Over all n_c the least used model has {100 * least:.2f} % of the features; {unused} have none."]
    return "\n".join(rows)


def identity_of(config_hash: str, fingerprints: Mapping[Part, str]) -> str:
    """Which training a configuration is, around a backbone's weights."""
    return f"{config_hash} on {' '.join(fingerprints[part] for part in PARTS)}"


def identity(folder: Path) -> str | None:
    """Which training a folder is the result of; None where it holds none."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    found = manifest(path)
    return identity_of(str(found.get("config_hash")), found["fingerprints"])


def summary(folder: Path) -> str:
    """What a complete folder's codec costs and loses, in a sentence a n_c."""
    rows = manifest(folder / MANIFEST)["held_out"]["rows"]
    return "; ".join(
        f"n_c {row['n_clusters']}: {row['bytes_per_image']:.0f} bytes an image, R {row['rate']:.3f}, "
        f"D {row['distortion']:.3f} ({row['merged_distortion']:.3f} uncoded)"
        for row in rows
    )
