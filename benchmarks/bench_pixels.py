"""How fast one core processes pixels and symbols: our own rows of ``harness/estimates/data/published.yaml``.

Drawn streets enlarged to the sizes of photographs; JPEG and WebP at the qualities of a low rate. Run with
OMP_NUM_THREADS=1. Prints a row for each kind of stage and size: medians of the processor time of rounds in turn, which
other processes' load does not change.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from baselines.pillow_codecs import Jpeg, JpegPoint, WebP, WebPPoint
from benchmarks.timing import ROUNDS, place
from harness.data.streetsqa import book
from harness.models.onevision import full_size_config, tiling_of
from harness.tofc import laplacian, rans

SIZES = ((640, 480), (1280, 960), (1536, 1024))
SYMBOLS = (23_040, 92_160, 368_640)


def pixel_calls(image: Image.Image) -> dict[str, Callable[[], object]]:
    """The stages of a picture, by their kind."""
    jpeg, webp = Jpeg(JpegPoint(quality=15)), WebP(WebPPoint(quality=20, method=4))
    body, tiling = jpeg.encode(image), tiling_of(full_size_config("llava-onevision-7b"))
    return {
        "jpeg_encode": lambda: jpeg.encode(image),
        "webp_encode": lambda: webp.encode(image),
        "picture_decode": lambda: jpeg.decode(body),
        "preprocess": lambda: tiling(image),
    }


def coding(n_symbols: int) -> Callable[[], object]:
    """Symbols under the 64 tables of a Laplacian, coded by rANS."""
    counts = [laplacian.table(level) for level in range(laplacian.LEVELS)]
    tables, rng = rans.Tables(counts), np.random.default_rng(0)
    per_table = n_symbols // len(counts)
    index_M = np.concatenate([rng.integers(len(c) // 2 - 1, len(c) // 2 + 2, per_table) for c in counts])
    start_R = np.arange(len(counts) + 1, dtype=np.int64) * per_table
    index_M, table_R = index_M.astype(np.int32), np.arange(len(counts), dtype=np.int64)
    return lambda: rans.Encoder().push(tables, index_M, table_R, start_R)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    street = book("test", 0)[0].scene().image.convert("RGB")
    calls: dict[tuple[str, str, int], Callable[[], object]] = {}
    tiling = tiling_of(full_size_config("llava-onevision-7b"))
    for width, height in SIZES:
        for kind, call in pixel_calls(street.resize((width, height), Image.Resampling.BICUBIC)).items():
            made = tiling.n_patches(*tiling.grid(height, width)) * tiling.patch**2
            elements = made if kind == "preprocess" else width * height
            calls[kind, f"{width}x{height}", elements] = call
    for n in SYMBOLS:
        calls["entropy_coding", f"{n} symbols", n] = coding(n)
    taken_s: dict[tuple[str, str, int], list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call()
    for _ in range(ROUNDS):
        for key, call in calls.items():
            start = time.process_time()
            call()
            taken_s[key].append(time.process_time() - start)
    seconds = {key: statistics.median(values) for key, values in taken_s.items()}
    table = Table(title=place())
    for heading in ("kind", "size", "elements", "ms", "million a second"):
        table.add_column(heading, justify="left" if heading in ("kind", "size") else "right")
    for (kind, size, elements), taken in sorted(seconds.items()):
        table.add_row(kind, size, str(elements), f"{1e3 * taken:.3f}", f"{elements / taken / 1e6:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
