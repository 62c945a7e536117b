"""Codecs side by side: the difference at equal bytes in closed form, and the same streams as the scheme's."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.models.onevision import load
from harness.schemes.tofc import Tofc, TofcPoint
from harness.tofc.trained import CODECS
from harness.training.bundled import book_of
from harness.training.card import HeldOut
from recipes import compare_codecs as codecs


def row(n_clusters: int, of_pictures: list[tuple[int, float]]) -> HeldOut:
    """A codec's row with these bytes and D of its pictures."""
    n_bytes, loss = (sum(column) / len(of_pictures) for column in zip(*of_pictures, strict=True))
    nothing = (0.0,) * 4
    return HeldOut(n_clusters, n_bytes, 1.0, loss, loss, 1.0, 0.0, 0.1, (1,), *nothing, tuple(of_pictures))


def test_the_difference_at_equal_bytes_is_that_of_the_curves() -> None:
    """Between old points of 100 and 400 bytes D is linear in log bytes; a point beyond them is left out."""
    old = [row(3, [(100, 0.4), (100, 0.6)]), row(3, [(400, 0.2), (400, 0.4)])]
    new = [row(3, [(200, 0.5), (200, 0.7)]), row(3, [(50, 0.9), (50, 0.9)]), row(6, [(200, 0.1), (200, 0.1)])]
    ((n_c, n_bytes, (less, low, high)),) = codecs.at_equal_bytes(old, new)
    assert (n_c, n_bytes) == (3, 200)
    assert less == pytest.approx(0.6 - 0.4)
    # The pictures differ by the same amount in both: drawn alike, they leave no scatter.
    assert (low, high) == pytest.approx((less, less))


def test_a_codec_against_itself_is_no_different() -> None:
    """Its own points are on its own curve."""
    old = [row(3, [(90, 0.4), (120, 0.6), (80, 0.2)]), row(3, [(390, 0.2), (410, 0.5), (380, 0.1)])]
    found = codecs.at_equal_bytes(old, old)
    assert [less for _, _, (less, _, _) in found] == pytest.approx([0, 0])
    assert all(low <= 1e-9 and high >= -1e-9 for _, _, (_, low, high) in found)


def test_trainings_that_differ_in_their_seed_alone_are_a_group(tmp_path: Path) -> None:
    """Mean and deviation over two seeds of one lambda; the other lambda has one seed, and no scatter."""
    rows = {}
    for name, weight, seed, n_bytes in (("a", 0.1, 0, 100), ("b", 0.1, 1, 104), ("c", 0.3, 0, 70)):
        (tmp_path / name).mkdir()
        config = {"name": "tiny", "lambda": weight, "seed": seed}
        facts = {"fingerprints": {"tower": "", "projector": "", "language": ""}, "config": config}
        (tmp_path / name / "manifest.json").write_text(json.dumps(facts))
        rows[tmp_path / name] = [row(3, [(n_bytes, 0.5 + seed / 10)])]
    ((name, n_c, seeds, *numbers),) = codecs.scatter(rows)
    assert (name, n_c, seeds) == ("tiny, lambda 0.1", 3, 2)
    assert numbers == pytest.approx([102, 8**0.5, 0.55, 0.005**0.5])


@pytest.mark.slow
def test_streams_are_those_of_the_scheme() -> None:
    """A page's bytes at each n_c are the body's that the scheme's device half sends of the same picture."""
    folder = CODECS / "mini-onevision" / "lambda-0.3"
    rows = codecs.measured(folder, pages=1, first_book=900_000)
    models, page = load("mini-onevision"), book_of(900_000)[0]
    for of_clusters in rows:
        point = TofcPoint(codec="lambda-0.3", merge_to=of_clusters.n_clusters / 144)
        device: Any = Tofc.device_half(models, point)
        tiles = models.vision().preprocess(page.scene().image)
        y_PCD = device.reducer(device.vision.encode(tiles), of_clusters.n_clusters)
        stream = device.codec.compress(y_PCD, tiles.layout.grid)
        ((n_bytes, _),) = of_clusters.of_pictures
        assert n_bytes == pytest.approx(len(stream), abs=1)
        assert sum(of_clusters.expert_use) == y_PCD.shape[0] * y_PCD.shape[1]
