"""What each half of each scheme loads and reads: packages, bytes of the checkpoint's tensors, peak memory.

    PYTHONPATH=. python -m benchmarks.bench_parts [--model llava-onevision-7b] [--scheme NAME ...]

The checkpoint has the layout of the published one, four shards of half-precision tensors under their names on the hub,
with nothing written in them: the files are sparse, so that 16 GB take no space on the disk and read as zeros. Each half
is made in a fresh process, on the CPU and so in float32. TOFC's codec has the model's width and no training, and is
counted in the memory alone. Halves whose weights would take more than ``--most-gib`` are not made.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MODEL = "llava-onevision-7b"
SHARD_BYTES = 5_000_000_000
HEAVY = ("torch", "transformers", "peft", "compressai")
TOWER_LIMIT_GIB = 2.5

POINTS: Mapping[str, Mapping[str, Any]] = {
    "tofc": {"codec": "random", "merge_to": 0.022},
    "jpeg": {"quality": 30},
    "webp": {"quality": 30},
    "hyperprior": {"weights": 0.006},
    "elic": {"weights": 0.006},
    "server_only": {},
    "device_only": {},
    "raw_features": {"merge_to": 0.022},
}


def lay_out(folder: Path, name: str) -> int:
    """Writes a sparse checkpoint of the full-size ``name``; returns the bytes of its tensors.

    Shapes are those of transformers' model; names are those of the hub's checkpoint, which transformers before 5.0
    wrote.
    """
    import torch

    from harness.models.onevision import OneVision, full_size_config

    config = full_size_config(name)
    with torch.device("meta"):
        model = OneVision.is_of.model_class(config)
    shapes = {hub_name(key): tuple(tensor.shape) for key, tensor in model.named_parameters()}
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (folder / "tokenizer.json").write_text(tokenizer())
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    in_shard = total = 0
    for key in sorted(shapes, key=lambda key: (not key.startswith("image_newline"), key)):
        n_bytes = 2 * count(shapes[key])
        if in_shard + n_bytes > SHARD_BYTES:
            shards.append({})
            in_shard = 0
        shards[-1][key] = shapes[key]
        in_shard += n_bytes
        total += n_bytes
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_sparse(folder / file, shard)
        index |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    )
    return total


def hub_name(key: str) -> str:
    """A parameter's name in the hub's checkpoints."""
    key = key.replace("model.vision_tower.vision_model.", "model.vision_tower.")
    for new, old in (
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.", ""),
    ):
        if key.startswith(new):
            return old + key.removeprefix(new)
    return key


def tokenizer() -> str:
    """The smallest tokenizer with the prompt's tokens."""
    from tokenizers import AddedToken, Tokenizer, models

    made = Tokenizer(models.BPE({}, []))
    made.add_special_tokens([AddedToken(token) for token in ("<|im_start|>", "<|im_end|>", "<image>")])
    return str(made.to_str())


def count(shape: tuple[int, ...]) -> int:
    """The elements of a shape."""
    n = 1
    for side in shape:
        n *= side
    return n


def write_sparse(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A safetensors file of float16 zeros that takes no more space on the disk than its header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * count(shape)
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + end)


def measure(folder: Path, name: str, scheme: str, side: str) -> dict[str, Any]:
    """Makes one half in this process, and reports what that took."""
    from harness import catalog
    from harness.models import files
    from harness.schemes import tofc

    read: dict[str, Any] = {"bytes": 0, "files": set()}
    checkpoints = {name: folder}
    for other in ("llava-onevision-0.5b",):
        if (found := folder.parent / other).is_dir():
            checkpoints[other] = found
    files.SOURCES = {**files.SOURCES, **checkpoints}

    class Parts:
        """Loads the model's parts when one of them is asked for."""

        def __init__(self) -> None:
            self.name, self.device, self.max_pixels = name, "cpu", 16_000_000
            self._models: Any = None

        def __getattr__(self, attribute: str) -> Any:
            if self._models is None:
                watch(read)
                load = catalog.load("backbone", name, catalog.BACKBONES)
                self._models = load(name)
            return getattr(self._models, attribute)

    point_type = catalog.load("scheme", scheme, catalog.SCHEMES)
    if scheme == "tofc":
        vars(tofc)["find_codec"] = lambda *_: folder / "codec.safetensors"
    models = Parts()
    half = getattr(point_type, f"{side}_half")(models, point_type.Point(**POINTS[scheme]))
    assert half is not None
    return {
        "bytes": read["bytes"],
        "files": sorted(read["files"]),
        "loaded": [package for package in HEAVY if package in sys.modules],
        "peak_gib": peak_gib(),
    }


def peak_gib() -> float:
    """The peak memory of this program alone: getrusage would include its parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def watch(read: dict[str, Any]) -> None:
    """Counts the tensors that are read from then on, and notes the files."""
    from harness.models import checkpoint

    opened, get = checkpoint._opened, checkpoint._read

    def noted(file: Path) -> Any:
        read["files"].add(file.name)
        return opened(file)

    def counted(opened: Any, place: Any, shape: tuple[int, ...], *rest: Any) -> Any:
        read["bytes"] += 2 * count(shape)
        return get(opened, place, shape, *rest)

    vars(checkpoint).update(_opened=noted, _read=counted)


def fingerprints(folder: Path) -> dict[str, Any]:
    """The time of the digest of all three parts."""
    from harness.models import files

    for part in files.PARTS:
        files.fingerprint(folder, part)
    facts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {
        "bytes": int(facts["rchar"]),
        "files": [],
        "loaded": [package for package in HEAVY if package in sys.modules],
        "peak_gib": peak_gib(),
    }


def in_a_process(*arguments: object) -> dict[str, Any]:
    """What a fresh process measures."""
    command = [sys.executable, "-m", "benchmarks.bench_parts", "--one", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def save_codec(path: Path, dim: int) -> None:
    """An untrained codec of the model's width."""
    import torch

    from harness.tofc.codec import CodecConfig, TofcCodec

    torch.manual_seed(0)
    codec = TofcCodec(CodecConfig(dim=dim, n_experts=16)).eval()
    noise_PCD = torch.randn(4, 64, dim)
    codec.fit_scale(noise_PCD)
    codec.freeze(noise_PCD)
    codec.save(path, networks=False)


def main() -> None:
    """Print a row for each half; fails where a device half of tofc takes more memory than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--scheme", action="append", choices=[*POINTS])
    parser.add_argument("--most-gib", type=float, default=6.0, help="larger halves are named, not made")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        folder, name, scheme, *side = given.one
        found = fingerprints(Path(folder)) if scheme == "fingerprints" else measure(Path(folder), name, scheme, *side)
        print(json.dumps(found))
        return
    from rich.console import Console
    from rich.table import Table

    with tempfile.TemporaryDirectory() as place:
        folder, smaller = Path(place) / given.model, Path(place) / "llava-onevision-0.5b"
        folder.mkdir()
        total = lay_out(folder, given.model)
        if given.model != smaller.name:
            smaller.mkdir()
            lay_out(smaller, smaller.name)
        save_codec(folder / "codec.safetensors", 1152)
        on_disk = sum(file.stat().st_blocks * 512 for file in folder.iterdir())
        console = Console()
        table = Table(title=f"{given.model}: {total / 1e9:.2f} GB of tensors ({on_disk / 1e6:.1f} MB on the disk)")
        for heading in ("scheme", "half", "loaded", "tensors read, MB", "files opened", "peak memory, GiB"):
            table.add_column(heading, justify="left" if heading in ("scheme", "half", "loaded") else "right")
        peaks = {}
        for scheme in given.scheme or POINTS:
            for side in ("device", "server"):
                reads_language = side == "server" and scheme != "device_only"
                if reads_language and 2 * total / 2**30 > given.most_gib:
                    table.add_row(scheme, side, "", "", "", f"> {given.most_gib:g}: not made")
                    continue
                found = in_a_process(folder, given.model, scheme, side)
                peaks[scheme, side] = found["peak_gib"]
                read = f"{found['bytes'] / 1e6:.1f}", str(len(found["files"]))
                loaded = ", ".join(found["loaded"]) or "none"
                table.add_row(scheme, side, loaded, *read, f"{found['peak_gib']:.2f}")
        found = in_a_process(folder, given.model, "fingerprints")
        loaded = ", ".join(found["loaded"]) or "none"
        table.add_row(
            "fingerprints", "all parts", loaded, f"{found['bytes'] / 1e6:.1f}", "", f"{found['peak_gib']:.2f}"
        )
        console.print(table)
        if ("tofc", "device") in peaks:
            assert peaks["tofc", "device"] < TOWER_LIMIT_GIB, f"more than {TOWER_LIMIT_GIB} GiB"


if __name__ == "__main__":
    main()
