"""Codecs side by side: the difference at equal bytes in closed form, and the same streams as the scheme's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.models.onevision import load
from harness.schemes.tofc import Tofc, TofcPoint
from harness.tofc.trained import CODECS
from harness.training.bundled import book_of
from harness.training.card import HeldOut
from recipes import compare_codecs as codecs
from recipes import over_seeds


def row(n_clusters: int, of_pictures: list[tuple[int, float]]) -> HeldOut:
    """A codec's row with these bytes and D of its pictures."""
    n_bytes, loss = (sum(column) / len(of_pictures) for column in zip(*of_pictures, strict=True))
    nothing = (0.0,) * 4
    return HeldOut(n_clusters, n_bytes, 1.0, loss, loss, 1.0, 0.0, 0.1, (1,), *nothing, tuple(of_pictures))


def test_the_difference_at_equal_bytes_is_that_of_the_curves() -> None:
    """Between old points of 100 and 400 bytes D is linear in log bytes; a point beyond them has no difference."""
    old = [row(3, [(100, 0.4), (100, 0.6)]), row(3, [(400, 0.2), (400, 0.4)])]
    ((n_c, n_bytes, compared),) = codecs.at_equal_bytes(old, [[row(3, [(200, 0.5), (200, 0.7)])]])
    assert (n_c, n_bytes) == (3, 200)
    assert compared is not None
    # The pictures differ by the same amount in both, so there is no scatter.
    assert compared == pytest.approx((0.6 - 0.4, 0.6 - 0.4, 0.6 - 0.4, 1))
    assert codecs.at_equal_bytes(old, [[row(3, [(50, 0.9), (50, 0.9)])]])[0][2] is None
    assert codecs.at_equal_bytes(old, [[row(6, [(200, 0.1), (200, 0.1)])]])[0][2] is None


def test_a_codec_against_itself_is_no_different() -> None:
    """Its own points are on its own curve."""
    old = [row(3, [(90, 0.4), (120, 0.6), (80, 0.2)]), row(3, [(390, 0.2), (410, 0.5), (380, 0.1)])]
    for one in old:
        ((_, _, compared),) = codecs.at_equal_bytes(old, [[one]])
        assert compared is not None
        assert compared[:3] == pytest.approx((0, 0, 0))


@pytest.mark.parametrize(("of_pictures", "of_seeds", "of_rest"), [(1, 0, 0.3), (1, 0.1, 0.3), (0.2, 0.3, 1), (0, 1, 0)])
def test_intervals_over_pictures_and_seeds_cover(of_pictures: float, of_seeds: float, of_rest: float) -> None:
    """Of 1,000 comparisons of three seeds 95 % hold the truth, and up to 99 % where both parts weigh as much."""
    rng, n_pictures, covered = np.random.default_rng(5), 96, 0
    for _ in range(1000):
        less_SP = 0.4 + of_pictures * rng.standard_normal(n_pictures) + of_rest * rng.standard_normal((3, n_pictures))
        found = over_seeds.difference(less_SP + of_seeds * rng.standard_normal((3, 1)))
        covered += found.low <= 0.4 <= found.high
    assert 930 <= covered <= 990


def test_intervals_at_equal_bytes_cover() -> None:
    """With bytes and D that scatter over pictures, and a place on the curve that is only estimated."""
    rng, covered = np.random.default_rng(7), 0
    for _ in range(1000):
        size_P, hard_P = rng.lognormal(0, 0.4, 96), rng.lognormal(-1.5, 0.7, 96)
        made = []
        for n_bytes, loss in ((100, 1.5), (400, 1.0), (200, 1.25 - 0.05)):
            bytes_P = n_bytes * size_P * rng.lognormal(0, 0.2, 96)
            made.append(list(zip(bytes_P, loss * hard_P * rng.lognormal(0, 0.1, 96), strict=True)))
        found = over_seeds.difference([over_seeds.less_than_curve(made[2], made[:2])])
        # The means' ratio to their expectation is that of the curve's too: its middle is at 200 bytes, in the mean.
        truth = -0.05 * np.exp(-1.5 + 0.7**2 / 2 + 0.1**2 / 2)
        covered += found.low <= truth <= found.high
    assert 930 <= covered <= 970


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


def test_a_saved_row_is_not_measured_again(tmp_path: Path) -> None:
    """A saved row is read unchanged, and its digest is of the folder's files and the pages."""
    rows = [row(3, [(90, 0.4), (120, 0.6)])]
    (tmp_path / "rows.json").write_text(json.dumps({"a": [one._asdict() for one in rows]}))
    assert codecs.saved(tmp_path / "rows.json") == {"a": rows}
    assert codecs.saved(tmp_path / "none.json") == {}
    before = codecs.digest(tmp_path, 96, 1)
    assert before != codecs.digest(tmp_path, 96, 2)
    (tmp_path / "codec.safetensors").write_bytes(b"1")
    assert before != codecs.digest(tmp_path, 96, 1)
