"""What figures show of a run besides its rows: the densities of features, the bits of payloads, example questions.

Computed from the scenario's pictures with the model that ran, at the run's selected points, and written into the run
(:mod:`harness.runs.illustrations`). Nothing is timed, and no row changes.

P patches   V features a patch   C merged features a patch   D feature dimension
"""

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness import catalog, loaded
from harness.analysis import Analysis, densities
from harness.data.sample import Sample
from harness.data.scoring import judge
from harness.edge import SHAPE
from harness.errors import BitstreamError, ResultsError, UnavailableError
from harness.models.contract import Answer, Models, Untimed
from harness.profiling.machine import machine_name
from harness.records import PointKey
from harness.reporter import Reporter
from harness.runs import digests, illustrations
from harness.runs.illustrations import Bits, Case, Cases, Density, Fit, Histogram, Illustrations
from harness.runs.replayed import scenario_of
from harness.scenario.model import Scenario
from harness.schemes import anatomy, envelope
from harness.schemes.contract import Payload
from harness.stock import Stock, take_stock
from harness.tofc.trained import CODEC

Floats = NDArray[np.float64]
_Asked = tuple[Sample, bytes, str, str, bool]
"""A question, the JPEG file that was sent, how it was written, the answer, and whether that is right."""

_CASES, _LOOKED_AT = 2, 40
_BINS, _INSIDE = 80, (0.0005, 0.9995)
_ELEMENTS = 2_000_000
"""A histogram of more elements draws as many: every n-th would be of a few channels wherever n and D share a factor."""

_SHOWN_PX = 448
_HALVINGS = 4
_SCAN = b"\xff\xda"
"""The marker at which a JPEG's coefficients begin."""


def illustrate(scenario: Scenario, folder: Path, *, pictures: int = 8, reporter: Reporter) -> Path:
    """Computes a run's illustrations and writes them into its folder; returns where they are.

    ``pictures`` is how many of its pictures densities and bits are taken over. Raises ResultsError where the folder
    does not hold a complete run of the present scenario.
    """
    run = Analysis.read(folder)
    manifest = run.manifest
    of_run = scenario_of(run.manifest, run.record.stages, scenario)
    if of_run is None:
        raise ResultsError(
            f"{folder}: holds a run of another scenario than {scenario.name}, or of an earlier state of it"
        )
    stock = take_stock(of_run, allow_stand_ins=bool(manifest.stand_ins))
    now = stock.manifest(manifest.name, {"id": "", "name": ""}, ())
    made_with = {name: digest for name, digest in manifest.digests.items() if name != SHAPE}
    if differs := digests.changed(made_with, now.digests):
        raise ResultsError(f"{folder}: since the run was made, these changed: {', '.join(differs)}; run it again")
    models, _, _ = loaded.load_models(stock)
    chosen = _chosen(run, stock)
    shown = _first_pictures(stock, pictures)
    reporter.phase("illustrations", total=len(chosen) + 2, done=0)
    bits: list[Bits] = []
    for key in chosen:
        bits += _bits(key, stock, models, shown)
        reporter.advance()
    absent: dict[str, str] = {}
    density = cases = None
    files: dict[str, bytes] = {}
    merging = _merging(chosen, stock, models)
    if merging is None:
        absent = dict.fromkeys(("density", "cases"), "no scheme of the run merges features on the device")
    else:
        density = _density(*merging, shown)
        reporter.advance()
        try:
            cases, files = _cases(*merging, run, stock, models)
        except UnavailableError as error:
            absent["cases"] = str(error)
        reporter.advance()
    found = Illustrations(
        run=illustrations.identity(manifest),
        machine=machine_name(),
        density=density,
        bits=tuple(bits),
        cases=cases,
        absent=absent,
    )
    return illustrations.write(folder, found, files)


def _chosen(run: Analysis, stock: Stock) -> list[PointKey]:
    """The selected point of each pipeline; of one that has none, its first."""
    found = []
    for pipeline in run.manifest.points:
        mine = run.points[run.points["pipeline"] == pipeline]
        point = str(mine.sort_values("selected", ascending=False, kind="stable")["point"].iloc[0])
        found.append((pipeline, point))
    return [key for key in found if key in stock.points]


def _first_pictures(stock: Stock, pictures: int) -> list[Sample]:
    """The first question of each of the first pictures, by the order of the run's questions."""
    places: dict[str, int] = {}
    for place, name in enumerate(stock.samples.names):
        places.setdefault(name.image_id, place)
    spread = np.unique(np.linspace(0, len(places) - 1, min(pictures, len(places))).round().astype(int))
    listed = list(places.values())
    return [stock.samples[listed[place]] for place in spread]


def _merging(chosen: Sequence[PointKey], stock: Stock, models: Models) -> "tuple[PointKey, Any] | None":
    """The first scheme that merges features on the device by the paper's way, and its device half."""
    from harness.schemes.features import FeatureDevice
    from harness.tofc.merging import Merging

    for key in chosen:
        scheme, point = stock.points[key]
        if not hasattr(point, "codec"):
            continue
        half = scheme.device_half(models, point)
        if isinstance(half, FeatureDevice) and isinstance(half.reducer, Merging):
            return key, half
    return None


def _bits(key: PointKey, stock: Stock, models: Models, shown: Sequence[Sample]) -> Iterator[Bits]:
    """Where the bits of a scheme's payloads go, part by part; nothing of a scheme that sends nothing."""
    scheme, point = stock.points[key]
    named = getattr(scheme, "files", None)
    files = {name: Path(path) for name, path in named(stock.backbone, point).items()} if named else {}
    codec = next((path for name, path in files.items() if name.startswith("codec ") or path.name == CODEC), None)
    half = scheme.device_half(models, point)
    sums: dict[str, float] = {}
    for sample in shown:
        sent = envelope.send(half, sample, Untimed())
        if isinstance(sent, Answer):
            return
        bodies = envelope.opened(sent)[1]
        sums["envelope"] = sums.get("envelope", 0.0) + 8 * (len(sent) - sum(map(len, bodies)))
        for body in bodies:
            try:
                parts = anatomy.of_body(body, codec).bits
            except BitstreamError:
                # The parts of some original files' formats are not known.
                parts = {"file": 8 * len(body)}
            for part, n_bits in parts.items():
                sums[part] = sums.get(part, 0.0) + n_bits
    for part, total in sums.items():
        yield Bits(pipeline=key[0], point=key[1], part=part, bits=total / len(shown), pictures=len(shown))


def _density(key: PointKey, half: Any, shown: Sequence[Sample]) -> Density:
    """The densities of the elements of x and of the merged y, with their fits."""
    unmerged, merged = [], []
    for sample in shown:
        seen = half.vision.see(sample.images()[0], Untimed(), attended=half.reducer.attended)
        y_PCD = half.reducer(seen.x_PVD, half.point.kept_of(seen.x_PVD.shape[1]), seen.attention)
        unmerged.append(seen.x_PVD.detach().double().cpu().numpy().ravel())
        merged.append(y_PCD.detach().double().cpu().numpy().ravel())
    return Density(
        pipeline=key[0],
        point=key[1],
        pictures=len(shown),
        unmerged=histogram(np.concatenate(unmerged)),
        merged=histogram(np.concatenate(merged)),
    )


def histogram(values: Floats) -> Histogram:
    """The density of values in bins over all but the outermost thousandth, and the fits of all of them."""
    thinned = values
    if values.size > _ELEMENTS:
        thinned = values[np.random.default_rng(0).integers(values.size, size=_ELEMENTS)]
    low, high = np.quantile(thinned, _INSIDE)
    counts, edges = np.histogram(thinned, _BINS, (low, high))
    fits = {}
    for family in densities.FAMILIES:
        location, scale = densities.fit(thinned, family)
        likelihood = densities.log_likelihood(thinned, family, location, scale)
        fits[family] = Fit(location=location, scale=scale, log_likelihood=likelihood)
    return Histogram(
        elements=int(thinned.size),
        edges=tuple(edges.tolist()),
        density=tuple((counts / (thinned.size * np.diff(edges))).tolist()),
        fits=fits,
    )


def _cases(key: PointKey, half: Any, run: Analysis, stock: Stock, models: Models) -> tuple[Cases, dict[str, bytes]]:
    """The first questions that the reference and the scheme answer correctly and JPEG of as many bytes does not."""
    jpeg = catalog.load("scheme", "jpeg", catalog.SCHEMES)
    reference = run.scores.reference
    outcomes = run.record.outcomes.to_pandas()
    of_key, of_reference = (
        outcomes[(outcomes["pipeline"] == k[0]) & (outcomes["point"] == k[1])].set_index("sample")
        for k in (key, reference)
    )
    places = {name.id: place for place, name in enumerate(stock.samples.names) if len(name.sizes_px) == 1}
    both = [
        sample for sample in places
        if sample in of_key.index and of_key.at[sample, "correct"] and of_reference.at[sample, "correct"]
    ]  # fmt: skip
    if not both:
        raise UnavailableError(
            f"there is no question about a single picture that {reference[0]} and {key[0]} both answer correctly"
        )
    wrong: list[_Asked] = []
    right: list[_Asked] = []
    looked_at = 0
    answered_by = _as_tofc(jpeg, half, stock)
    server = jpeg.server_half(models, answered_by)
    seen = set[str]()
    for sample_id in both:
        sample = stock.samples[places[sample_id]]
        if sample.image_id in seen:
            continue
        seen.add(sample.image_id)
        looked_at += 1
        body, how = _jpeg(jpeg, models, sample.images()[0], int(of_key.at[sample_id, "payload_bytes"]))
        (answer,) = server(Payload(jpeg.kind, (body,), jpeg.checked), [sample.question], Untimed())
        verdict = judge(sample.question, sample.truth, answer.text, stock.scenario.scoring)
        (right if verdict else wrong).append((sample, body, how, answer.text, verdict))
        if len(wrong) == _CASES or looked_at == _LOOKED_AT:
            break
    rule = (
        f"the first {_CASES} questions, one a picture in the run's order, that {reference[0]} and {key[0]} both "
        f"answer correctly and JPEG of as many bytes does not: {len(wrong)} of the {looked_at} looked at"
    )
    if answered_by.adapter is not None:
        rule += f"; for JPEG the model with the adapter {answered_by.adapter} answers, as in the run"
    if len(wrong) < _CASES:
        rule += "; the rest are the first that JPEG answers correctly too"
    cases, files = [], {}
    for number, (sample, body, how, text, verdict) in enumerate((wrong + right)[:_CASES], 1):
        image = sample.images()[0]
        files[f"case{number}-shown.png"] = _png(image)
        files[f"case{number}-jpeg.png"] = _png(Image.open(io.BytesIO(body)).convert("RGB"), image.size)
        row = of_key.loc[sample.id]
        cases.append(
            Case(
                sample=sample.id,
                question=sample.question.text,
                options=dict(sample.question.options),
                truth=sample.truth,
                answer=str(row["answer"]),
                jpeg_answer=text,
                jpeg_right=bool(verdict),
                payload_bytes=int(row["payload_bytes"]),
                jpeg_bytes=len(body),
                jpeg=how,
                labels=_labels(half, image),
                shown=f"case{number}-shown.png",
                left=f"case{number}-jpeg.png",
            )
        )
    return Cases(pipeline=key[0], point=key[1], rule=rule, cases=tuple(cases)), files


def _as_tofc(jpeg: Any, half: Any, stock: Stock) -> Any:
    """A point of JPEG that is merged as a half's features are, and answered by the model that the run has for JPEG."""
    of_run = (point.adapter for _, point in stock.points.values() if isinstance(point, jpeg.Point))
    adapter = next((adapter for adapter in of_run if adapter is not None), None)
    merged = {"merge_to": half.point.merge_to, "n_c": half.point.n_c, "neighbours": half.reducer.neighbours}
    return jpeg.Point(quality=50, **merged, adapter=adapter)


def _jpeg(jpeg: Any, models: Models, image: Image.Image, n_bytes: int) -> tuple[bytes, str]:
    """A JPEG file of at most so many bytes, and how it was written.

    The picture is halved until the lowest quality fits, and the quality is then the highest that fits. If none fits,
    because a JPEG begins with some 600 bytes of tables, the tables are not counted.
    """

    def file(picture: Image.Image, quality: int) -> bytes:
        codec = jpeg(jpeg.Point(quality=quality), models.device, models.max_pixels)
        body: bytes = codec.encode(picture)
        return body

    sizes = [(max(8, image.width >> n), max(8, image.height >> n)) for n in range(_HALVINGS + 1)]
    pictures = [image, *(image.resize(size, Image.Resampling.LANCZOS) for size in sizes[1:])]
    smallest = file(pictures[-1], 1)
    tables = 0 if len(smallest) <= n_bytes else smallest.index(_SCAN)
    halving = next((h for h, p in enumerate(pictures) if len(file(p, 1)) <= n_bytes + tables), _HALVINGS)
    low, high = 1, 95
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(file(pictures[halving], middle)) <= n_bytes + tables
        low, high = (middle, high) if fits else (low, middle - 1)
    side = f", at 1/{2**halving} of its width and height" if halving else ""
    return file(pictures[halving], low), f"quality {low}{side}" + (f"; {tables} B of it are tables" if tables else "")


def _png(image: Image.Image, size: tuple[int, int] | None = None) -> bytes:
    """A picture to show, with a maximum size; one that was made smaller is shown at its original size, in blocks."""
    if size is not None and size != image.size:
        image = image.resize(size, Image.Resampling.NEAREST)
    share = min(1.0, _SHOWN_PX / max(image.size))
    image = image.resize(
        (max(1, round(share * image.width)), max(1, round(share * image.height))), Image.Resampling.BICUBIC
    )
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _labels(half: Any, image: Image.Image) -> tuple[tuple[int, ...], ...]:
    """Into which merged feature each feature of the picture's first patch went, as a square.

    Empty if it is not a square, or the patch does not show the picture padded to a square.
    """
    from harness.tofc.merging import merge

    seen = half.vision.see(image, Untimed())
    x_PVD = seen.x_PVD[:1]
    n_features = x_PVD.shape[1]
    side = math.isqrt(n_features)
    if side * side != n_features or seen.layout.stretched:
        return ()
    merged = merge(x_PVD, half.point.kept_of(n_features), half.reducer.neighbours)
    return tuple(map(tuple, merged.labels_PV[0].view(side, side).tolist()))
