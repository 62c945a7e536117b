"""Streams that one machine codes and another decodes: what is decoded, and what differs.

    python -m tools.portability code  FOLDER [--pictures 10] [--whole 2]     on one machine
    python -m tools.portability decode FOLDER                                on another, or on the same

``code`` writes the streams of generated pictures, merged to several n_c and coded by every bundled codec of features,
and coded by every bundled network for pictures, with digests of what it decodes from them itself; and, of some
pictures, the features and the clusters of merging. Of every scheme it writes one request, and the answer to it.
``decode`` decodes the streams, merges the features, answers the requests, and compares. The exit status is 1 if a
stream or a request is refused, or a stream decodes to something else here than there.
"""

import argparse
import hashlib
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from baselines.networks.pictures import PictureCoder
from baselines.networks.weights import ready
from baselines.neural_codec import bundled
from baselines.neural_container import MAX_PIXELS, unpack
from harness import catalog
from harness.data import streetsqa
from harness.data.sample import Sample
from harness.errors import BitstreamError, HarnessError, ResultsError
from harness.models.contract import Answer, Models, Untimed, VisionSide
from harness.profiling.machine import this_machine
from harness.runs.provenance import package_versions
from harness.schemes import envelope
from harness.schemes.anatomy import codec_of
from harness.schemes.contract import Scheme
from harness.tofc.feature_codec import FeatureCodec
from harness.tofc.merging import merge

FORMAT = "portability-1"
MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"
CLUSTERS = (2, 3, 4, 5, 6)
"""n_c of the requests; an ablation's codec has the last alone."""
BACKBONES = ("mini-onevision", "mini-llava15")
NETWORKS = ("hyperprior", "elic")
POINTS: dict[str, dict[str, Any]] = {
    "server_only": {},
    "device_only": {"merge_to": 0.044},
    "raw_features": {"merge_to": 0.044},
    "tofc": {"codec": "lambda-0.3", "merge_to": 0.044},
    "jpeg": {"quality": 10, "merge_to": 0.044},
    "webp": {"quality": 5, "method": 4, "merge_to": 0.044},
    "avif": {"quality": 10, "merge_to": 0.044},
    "hyperprior": {"weights": 0.006, "merge_to": 0.044},
    "elic": {"weights": 0.006, "merge_to": 0.044},
    "tofc_selective": {"codec": "lambda-0.2", "merge_to": 0.044},
    "tofc_single": {"codec": "lambda-0.2", "merge_to": 0.044},
    "tofc_heuristic": {"codec": "bits-4", "merge_to": 0.044},
    "tofc_factorized": {"codec": "lambda-0.2", "merge_to": 0.044},
    "tofc_unmerged": {"codec": "distortion", "merge_to": 0.028},
    "visionzip": {"codec": "distortion", "merge_to": 0.028},
    "visionzip_merging": {"codec": "distortion", "merge_to": 0.028},
    "qformer": {"codec": "distortion", "merge_to": 0.028},
}
"""An operating point of every scheme that needs no package besides the required ones."""
NEURAL_EVERY = 5
"""One of this many pictures goes through the networks for pictures, whose strings are long and slow."""


@cache
def feature_codecs(backbone: str) -> dict[str, Path]:
    """The bundled checkpoints of codecs for a backbone's features, by their places in the bundled folders."""
    found = {}
    for name in catalog.CODEC_FOLDERS:
        folder: Path = catalog.load("folder of codecs", name, catalog.CODEC_FOLDERS)
        for path in sorted(folder.glob(f"**/{backbone}/**/codec.safetensors")):
            found[f"{name}/{path.parent.relative_to(folder)}"] = path
    return found


@cache
def opened(path: Path) -> FeatureCodec:
    """The codec of a checkpoint, of whichever class wrote it."""
    return codec_of(path).load(path)


@cache
def network(name: str) -> PictureCoder:
    """The coder of a bundled network, such as ``elic/0.02``."""
    codec, _, point = name.partition("/")
    return PictureCoder(ready(codec, float(point)))


@cache
def models(backbone: str) -> Models:
    """The parts of a bundled model, on the CPU."""
    found: Models = catalog.load("backbone", backbone, catalog.BACKBONES)(backbone, device="cpu")
    return found


@cache
def vision(backbone: str) -> VisionSide:
    """The vision side of a bundled model."""
    return models(backbone).vision()


@cache
def _pages() -> list[Any]:
    return [page for number in (0, 1) for page in streetsqa.book("test", number)]


@cache
def picture(number: int) -> Image.Image:
    """A generated street, the same on every machine."""
    drawn: Image.Image = _pages()[number].scene().image.convert("RGB")
    return drawn


def code(folder: Path, n_pictures: int, n_whole: int, show: Callable[[str], None] = print) -> None:
    """Codes ``n_pictures`` by every codec into ``folder``, with the features of the first ``n_whole``."""
    tensors: dict[str, Tensor] = {}
    requests: list[dict[str, Any]] = []

    def add(kind: str, codec: str, number: int, stream: bytes, decoded: Tensor) -> None:
        name = f"stream/{len(requests):04d}"
        tensors[name] = torch.tensor(bytearray(stream), dtype=torch.uint8)
        facts = {"kind": kind, "codec": codec, "picture": number, "stream": name}
        requests.append({**facts, "decoded": digest(decoded)})

    for backbone in BACKBONES:
        for number in range(n_pictures):
            merged, grid = _merged(backbone, number, tensors if number < n_whole else {})
            for name, path in feature_codecs(backbone).items():
                for y_PCD in merged if name.startswith("zoo/") else merged[-1:]:
                    stream = opened(path).compress(y_PCD, grid)
                    add("features", name, number, stream, opened(path).decompress(stream).y_PCD)
            show(f"{backbone}: {number + 1} of {n_pictures} pictures")
    for codec in NETWORKS:
        for point in sorted(bundled(codec)):
            for number in range(0, n_pictures, NEURAL_EVERY):
                name = f"{codec}/{point}"
                body = network(name).encode(picture(number), MAX_PIXELS)
                add("picture", name, number, body, latents(network(name), body))
            show(f"{codec}/{point}")
    answers = {}
    for name in POINTS:
        sent, answer = _request(name)
        tensors[f"request/{name}"] = torch.tensor(bytearray(sent), dtype=torch.uint8)
        answers[name] = answer
        show(f"{name}: {len(sent)} bytes, answer {answer!r}")
    manifest = {
        "format": FORMAT,
        "machine": this_machine(),
        "packages": package_versions(),
        "pictures": [hashlib.sha256(picture(number).tobytes()).hexdigest() for number in range(n_pictures)],
        "requests": requests,
        "answers": answers,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / TENSORS)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _merged(backbone: str, number: int, kept: dict[str, Tensor]) -> tuple[list[Tensor], tuple[int, int]]:
    """The features of a picture, merged to each of CLUSTERS, and its grid; features and labels go to ``kept``."""
    features = vision(backbone).see(picture(number), Untimed())
    x_PVD = features.x_PVD.float()
    merged = [merge(x_PVD, n_clusters) for n_clusters in CLUSTERS]
    kept[f"x/{backbone}/{number:03d}"] = x_PVD.contiguous()
    kept[f"labels/{backbone}/{number:03d}"] = torch.stack([each.labels_PV for each in merged], 1).to(torch.int16)
    return [each.y_PCD for each in merged], features.layout.grid


def _halves(name: str) -> tuple[type[Scheme], Any, Any]:
    scheme: type[Scheme] = catalog.load("scheme", name, catalog.SCHEMES)
    point = scheme.Point.model_validate(POINTS[name])
    made = models(BACKBONES[0])
    return scheme, scheme.device_half(made, point), scheme.server_half(made, point)


@cache
def _sample() -> Sample:
    asked = _pages()[0].questions[0]
    file = io.BytesIO()
    picture(0).save(file, "PNG")
    return Sample(
        id="0", image_bytes=file.getvalue(), question=asked.question, truth=asked.truth, category="", group=""
    )


def _request(name: str) -> tuple[bytes, str]:
    """What a scheme's device half sends of a sample, empty where it sends nothing, and the answer to that."""
    scheme, device, server = _halves(name)
    sent = envelope.send(device, _sample(), Untimed())
    if isinstance(sent, Answer):
        return b"", sent.text
    return sent, envelope.receive(server, sent, [_sample().question], Untimed(), kind=scheme.kind)[0].text


def _answers(answers: Mapping[str, str], tensors: Mapping[str, Tensor]) -> tuple[list[str], int]:
    """The other machine's requests at this machine's server halves, and beside those of its own device halves."""
    n_refused = n_other = n_same = n_sent = 0
    for name, expected in answers.items():
        scheme, device, server = _halves(name)
        data, own = bytes(tensors[f"request/{name}"].numpy()), envelope.send(device, _sample(), Untimed())
        if isinstance(own, Answer):
            n_other += own.text != expected
            continue
        n_sent, n_same = n_sent + 1, n_same + (own == data)
        try:
            (answer,) = envelope.receive(server, data, [_sample().question], Untimed(), kind=scheme.kind)
        except BitstreamError:
            n_refused += 1
        else:
            n_other += answer.text != expected
    told = (
        f"  a request of each scheme: {len(answers)} schemes, {n_refused} refused, {n_other} answers differ; "
        f"{n_same} of {n_sent} payloads are the bytes that this machine sends"
    )
    return [told] if answers else [], n_refused


def latents(coder: PictureCoder, body: bytes) -> Tensor:
    """The content of a picture's strings: y, which g_s makes a picture of, in floating point and so not exactly."""
    read = unpack(body, coder.model, coder.net.n_strings, MAX_PIXELS)
    seen: list[Tensor] = []
    with coder.net.g_s.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        coder.decode(body, read.width_px * read.height_px)
    return seen[0]


def decode(folder: Path) -> tuple[list[str], int]:
    """Decodes every stream of ``folder`` here: a sentence for each difference, and how many streams differ.

    Raises ResultsError where the folder is not one that :func:`code` wrote.
    """
    manifest, tensors = _read(folder)
    counts: dict[str, Counter[str]] = {}
    began = time.perf_counter()
    for request in manifest["requests"]:
        stream = bytes(tensors[request["stream"]].numpy())
        count = counts.setdefault(f"{request['kind']}: {request['codec'].partition('/')[0]}", Counter())
        try:
            same = digest(_decoded(request["kind"], request["codec"], stream)) == request["decoded"]
        except BitstreamError:
            count["refused"] += 1
        else:
            count["equal" if same else "other"] += 1
    wrong = sum(count["refused"] + count["other"] for count in counts.values())
    answered, refused = _answers(manifest["answers"], tensors)
    there, here = manifest["machine"], this_machine()
    told = [
        f"coded on {there['name']} ({there['architecture']}), decoded on {here['name']} ({here['architecture']}) "
        f"in {time.perf_counter() - began:.0f} s",
        *(f"  {what}: {c.total()} streams, {c['refused']} refused, {c['other']} differ" for what, c in counts.items()),
        *answered,
        *_clusters(tensors),
        *_pictures(manifest["pictures"]),
    ]
    return told, wrong + refused


def _decoded(kind: str, codec: str, stream: bytes) -> Tensor:
    if kind == "picture":
        return latents(network(codec), stream)
    paths = {name: path for backbone in BACKBONES for name, path in feature_codecs(backbone).items()}
    if codec not in paths:
        raise ResultsError(f"the codec {codec} is not bundled here; bundled: {', '.join(paths)}")
    return opened(paths[codec]).decompress(stream).y_PCD


def _clusters(tensors: dict[str, Tensor]) -> Iterator[str]:
    """Merging the other machine's features here, and its features beside those that this machine makes."""
    names = [name.removeprefix("x/") for name in tensors if name.startswith("x/")]
    if not names:
        return
    n_merged = n_other = n_labels = n_moved = n_own = 0
    gap = 0.0
    for name in names:
        x_PVD, labels_PNV = tensors[f"x/{name}"], tensors[f"labels/{name}"]
        here_PNV = torch.stack([merge(x_PVD, n_clusters).labels_PV for n_clusters in CLUSTERS], 1)
        differs_PNV = here_PNV != labels_PNV
        n_merged, n_labels = n_merged + differs_PNV[..., 0].numel(), n_labels + differs_PNV.numel()
        n_other, n_moved = n_other + int(differs_PNV.any(2).sum()), n_moved + int(differs_PNV.sum())
        own: dict[str, Tensor] = {}
        backbone, number = name.split("/")
        _merged(backbone, int(number), own)
        gap = max(gap, float((own[f"x/{name}"] - x_PVD).abs().max() / x_PVD.abs().max()))
        n_own += int((own[f"labels/{name}"] != labels_PNV).any(2).sum())
    yield (
        f"  merging their features: {n_other} of {n_merged} patches have other clusters "
        f"({n_moved} of {n_labels} labels)"
    )
    yield (
        f"  our own features of those pictures differ from theirs by at most {gap:.1e} of the largest; "
        f"{n_own} of {n_merged} patches have other clusters"
    )


def _pictures(digests: Sequence[str]) -> Iterator[str]:
    same = sum(hashlib.sha256(picture(n).tobytes()).hexdigest() == told for n, told in enumerate(digests))
    yield f"  the pictures drawn here: {same} of {len(digests)} equal"


def digest(decoded: Tensor) -> str:
    """Of a tensor's shape and every bit of its values."""
    array = np.ascontiguousarray(decoded.detach().cpu().numpy())
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:32]


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ResultsError(f"{folder}: holds no streams that 'code' wrote: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ResultsError(f"{path}: is not of the format {FORMAT}; code the streams again with this version")
    return manifest, tensors


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the two commands; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    coding = commands.add_parser("code", help="write streams and digests")
    coding.add_argument("folder", type=Path)
    coding.add_argument(
        "--pictures", type=int, default=10, help="number of pictures (10: 300 requests of the zoo's codecs)"
    )
    coding.add_argument("--whole", type=int, default=2, help="number of pictures whose features are written too (2)")
    commands.add_parser("decode", help="decode them and compare").add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with torch.inference_mode():
        if options.command == "code":
            code(options.folder, options.pictures, options.whole)
            return 0
        try:
            told, wrong = decode(options.folder)
        except HarnessError as error:
            print(error, file=sys.stderr)
            return 2
        except KeyError as error:
            print(f"{options.folder}: lacks {error}; code the streams again", file=sys.stderr)
            return 2
    print("\n".join(told))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
