"""Codecs side by side: the difference at equal bytes in closed form, and the same streams as the scheme's."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.errors import CheckpointError, HarnessError, ResultsError
from harness.models.onevision import load
from harness.schemes.tofc import Tofc, TofcPoint
from harness.tofc.codec import TofcCodec
from harness.tofc.trained import CODECS, MANIFEST
from harness.training.bundled import book_of
from harness.training.card import HeldOut
from recipes import compare_codecs as codecs
from recipes import held_out, over_seeds


def row(n_clusters: int, of_pictures: list[tuple[int, float]]) -> HeldOut:
    """A codec's row with these bytes and D of its pictures."""
    n_bytes, loss = (sum(column) / len(of_pictures) for column in zip(*of_pictures, strict=True))
    nothing = (0.0,) * 4
    return HeldOut(n_clusters, n_bytes, 1.0, loss, loss, 1.0, 0.0, 0.1, (1,), *nothing, tuple(of_pictures))


def compared(old: Sequence[HeldOut], new: Sequence[HeldOut]) -> over_seeds.Difference | None:
    """The difference of trainings of one recipe, a row for each seed, from a curve of one training a point."""
    (((_, _, found),),) = codecs.at_equal_bytes([[(one,)] for one in old], [[(one,) for one in new]])
    return found


def training(folder: Path, seed: int = 0, codec: str = "", weight: float = 0.1, backbone: str = "x") -> codecs.Training:
    """A training as its folder says it."""
    config = {"name": "tiny", "lambda": weight, "seed": seed, "clusters": [3]}
    return codecs.Training(folder, config, backbone, codec or folder.name)


def test_the_difference_at_equal_bytes_is_that_of_the_curves() -> None:
    """Between old points of 100 and 400 bytes D is linear in log bytes; a point beyond them has no difference."""
    old = [row(3, [(100, 0.4), (100, 0.6)]), row(3, [(400, 0.2), (400, 0.4)])]
    # The pictures differ by the same amount in both and so leave no scatter.
    found = compared(old, [row(3, [(200, 0.5), (200, 0.7)])])
    assert found is not None
    assert found == pytest.approx((0.6 - 0.4, 0.6 - 0.4, 0.6 - 0.4, 1, False))
    assert str(found).endswith("+0.2000, over pages alone | 1")
    assert compared(old, [row(3, [(50, 0.9), (50, 0.9)])]) is None
    assert compared(old, [row(6, [(200, 0.1), (200, 0.1)])]) is None


def test_a_codec_against_itself_is_no_different() -> None:
    """Its own points are on its own curve, and its scatter is the curve's: the interval is nothing but 0."""
    old = [row(3, [(90, 0.4), (120, 0.6), (80, 0.2)]), row(3, [(390, 0.2), (410, 0.5), (380, 0.1)])]
    others = [(row(3, [(200 + seed, 0.4), (210, 0.5 + seed / 10), (190, 0.1)]),) for seed in range(3)]
    for one in old:
        ((_, _, found),), ((_, _, other),) = codecs.at_equal_bytes([[(row_,)] for row_ in old], [[(one,)], others])
        assert found is not None
        assert found[:3] == pytest.approx((0, 0, 0))
        assert other is not None
        assert other.with_scatter


def test_a_point_of_the_curve_is_the_mean_of_its_seeds() -> None:
    """Seeds of nearly equal bytes are one point: in the middle the curve's D is the mean, whatever their order."""
    first = [row(3, [(100, 0.5)] * 2), row(3, [(104, 0.1)] * 2)]
    second = [row(3, [(400, 0.2)] * 2)]
    new = [row(3, [(int((102 * 400) ** 0.5), 0.4)] * 2)]
    for seeds in (first, first[::-1]):
        (((_, _, found),),) = codecs.at_equal_bytes([[(one,) for one in seeds], [(second[0],)]], [[(new[0],)]])
        assert found is not None
        assert found.value == pytest.approx(0.4 - (0.3 + 0.2) / 2, abs=1e-3)
        assert found.with_scatter


def test_the_curves_trainings_scatter_too() -> None:
    """The half width in closed form: a/S of the own scatter, and w^2 + (1 - w)^2 of the pooled one."""
    old = [row(3, [(100, 0.4)] * 5), row(3, [(400, 0.2)] * 5)]
    groups = [[0.5, 0.6], [0.1, 0.2, 0.6], [0.7]]
    new = [[(row(3, [(200, loss)] * 5),) for loss in losses] for losses in groups]
    found = [rows[0][2] for rows in codecs.at_equal_bytes([[(one,)] for one in old], new)]
    variances = [0.005, 0.07]
    pooled, quantile = (0.005 + 2 * 0.07) / 3, {1: 12.7062, 2: 4.30265, 3: 3.18245}
    for one, losses, of_own, freedom in zip(found, groups, [*variances, pooled], [1, 2, 3], strict=True):
        squared = quantile[freedom] ** 2 * of_own / len(losses) + quantile[3] ** 2 * pooled / 2
        assert one is not None
        assert one.high - one.value == pytest.approx(squared**0.5, rel=1e-5)


def study(rng: np.random.Generator, deviation: float, seeds: Sequence[int]) -> list[over_seeds.Difference | None]:
    """Groups of so many seeds that are better than a curve of two trainings by 0.01, all scattering alike."""
    size_P, hard_P = rng.lognormal(0, 0.3, 96), 0.1 * rng.standard_normal(96)

    def trained(n_bytes: float, less: float = 0.0) -> tuple[HeldOut]:
        n_bytes *= np.exp(0.02 * rng.standard_normal())
        loss = 0.3 - 0.04 * np.log(n_bytes / 100) - less + deviation * rng.standard_normal()
        losses_P = loss + hard_P + 0.03 * rng.standard_normal(96)
        return (row(3, list(zip(n_bytes * size_P, losses_P, strict=True))),)

    old = [[trained(100)], [trained(400)]]
    new = [[trained(200, 0.01) for _ in range(n_seeds)] for n_seeds in seeds]
    return [rows[0][2] for rows in codecs.at_equal_bytes(old, new)]


def coverage(deviation: float, studies: int, seeds: Sequence[int] = (3, 3, 1)) -> list[float]:
    """The share of studies whose 95 % interval holds the truth, for each group."""
    rng, covered = np.random.default_rng(11), np.zeros(len(seeds))
    for _ in range(studies):
        covered += [one is not None and one.low <= -0.01 <= one.high for one in study(rng, deviation, seeds)]
    return [float(share) for share in covered / studies]


@pytest.mark.slow
@pytest.mark.parametrize("deviation", [0.002, 0.009])
def test_intervals_cover_where_the_curve_is_one_training_a_point(deviation: float) -> None:
    """Of 200 studies at least 91 %, two standard errors below 95 %, of groups of three seeds and of one."""
    assert min(coverage(deviation, 200)) >= 0.91


@pytest.mark.slow
@pytest.mark.parametrize(("of_pictures", "of_seeds", "of_rest"), [(1, 0, 0.3), (1, 0.1, 0.3), (0.2, 0.3, 1), (0, 1, 0)])
def test_intervals_over_pictures_and_seeds_cover(of_pictures: float, of_seeds: float, of_rest: float) -> None:
    """Of 1,000 comparisons of three seeds 95 % hold the truth, and up to 99 % where both parts weigh as much."""
    rng, n_pictures, covered = np.random.default_rng(5), 96, 0
    for _ in range(1000):
        less_SP = 0.4 + of_pictures * rng.standard_normal(n_pictures) + of_rest * rng.standard_normal((3, n_pictures))
        found = over_seeds.difference(less_SP + of_seeds * rng.standard_normal((3, 1)))
        covered += found.low <= 0.4 <= found.high
    assert 930 <= covered <= 990


@pytest.mark.slow
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
        # At the expected mean of 200 bytes the curve's D is 1.25, times a picture's mean difficulty.
        truth = -0.05 * np.exp(-1.5 + 0.7**2 / 2 + 0.1**2 / 2)
        covered += found.low <= truth <= found.high
    assert 930 <= covered <= 970


def test_trainings_that_differ_in_their_seed_alone_are_a_group(tmp_path: Path) -> None:
    """Mean and deviation over two seeds of one lambda; the other lambda has one seed, and no scatter."""
    made = (("a", 0.1, 0), ("b", 0.1, 1), ("c", 0.3, 0))
    groups = codecs.by_training([training(tmp_path / name, seed, weight=weight) for name, weight, seed in made])
    assert {name: [one.folder.name for one in group] for name, group in groups.items()} == {
        "tiny, lambda 0.1": ["a", "b"],
        "tiny, lambda 0.3": ["c"],
    }
    rows = {"tiny, lambda 0.1": [[row(3, [(100, 0.5)])], [row(3, [(104, 0.6)])]], "c": [[row(3, [(70, 0.5)])]]}
    ((name, n_c, seeds, *numbers),) = codecs.deviations(rows)
    assert (name, n_c, seeds) == ("tiny, lambda 0.1", 3, 2)
    assert numbers == pytest.approx([102, 8**0.5, 0.55, 0.005**0.5])


def test_copies_of_a_training_are_no_seeds(tmp_path: Path) -> None:
    """The same codec twice, or the same seed twice in a group, is refused; three recipes of one name all stay."""
    with pytest.raises(CheckpointError, match=r"b: has the codec of .*a; name each training once"):
        codecs.by_training([training(tmp_path / "a", codec="1"), training(tmp_path / "b", seed=1, codec="1")])
    with pytest.raises(CheckpointError, match=r"b: was trained with seed 0, and so was .*a of the same conf"):
        codecs.by_training([training(tmp_path / "a"), training(tmp_path / "b")])
    with pytest.raises(CheckpointError, match=r"a: has the codec of .*a; "):
        codecs.by_training([training(tmp_path / "a")] * 2)
    alike = [training(tmp_path / name / "x", codec=name, backbone=name) for name in "abc"]
    assert len(codecs.by_training(alike)) == 3


def codec_folder(folder: Path, **changed: Any) -> Path:
    """The manifest of a bundled codec with other facts in its configuration, and a codec's header."""
    folder.mkdir()
    facts = json.loads((CODECS / "mini-onevision" / "lambda-0.3" / MANIFEST).read_text())
    facts["config"] = {**facts["config"], "lora": {"rank": 0}, **changed}
    del facts["codec_hash"], facts["adapter_hash"]
    (folder / MANIFEST).write_text(json.dumps(facts))
    metadata = {"format": TofcCodec.FORMAT, "hash": folder.name}
    save_file({"a": np.zeros(1, np.float32)}, folder / "codec.safetensors", metadata)
    return folder


@pytest.mark.slow
def test_every_folder_is_read_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter alone, no folder, other weights, training's own pages and another backbone: one sentence, no row."""
    monkeypatch.setattr(codecs, "measured", lambda *_: pytest.fail("a folder was measured"))
    good = codec_folder(tmp_path / "good")
    other = codec_folder(tmp_path / "other")
    facts = json.loads((other / MANIFEST).read_text())
    facts["fingerprints"]["language"] = "0"
    (other / MANIFEST).write_text(json.dumps(facts))
    foreign = codec_folder(tmp_path / "foreign")
    save_file({"a": np.zeros(1, np.float32)}, foreign / "codec.safetensors", {"format": "another"})
    wrong = [
        (CODECS / "mini-onevision" / "merging", "merging: has no codec.safetensors: it is an adapter without a codec"),
        (tmp_path / "none", "none: there is no such folder"),
        (tmp_path, "manifest.json: cannot be read"),
        (other, "other: was trained with weights 0 of the language of mini-onevision"),
        (foreign, "its format is 'another'"),
        (codec_folder(tmp_path / "unnamed", **{"lambda": None}), "its 'config' has no lambda"),
        (codec_folder(tmp_path / "mistyped", clusters=[-1]), r"config\.clusters\.0: -1 is not right"),
        (good / "codec.safetensors", "codec.safetensors: is a file; a folder that 'harness train' made is expected"),
        (codec_folder(tmp_path / "late", data={"kind": "bundled", "first_book": 210_007}), "learned from the books"),
        (CODECS / "mini-llava15" / "lambda-0.1", "is a codec of mini-llava15, and .*good of mini-onevision"),
    ]
    for folder, sentence in wrong:
        with pytest.raises(HarnessError, match=sentence):
            codecs.main([str(good), "--with", str(folder)])


def test_a_folder_in_both_groups_is_in_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is measured once, and differs from its own curve by nothing."""
    made = [codec_folder(tmp_path / name, **{"lambda": weight}) for name, weight in (("a", 0.1), ("b", 0.3))]
    calls = []

    def measured(folder: Path, *_: int) -> tuple[HeldOut, ...]:
        calls.append(folder.name)
        return (row(3, [(90 if folder.name == "a" else 300, 0.4), (120, 0.6)]),)

    monkeypatch.setattr(codecs, "measured", measured)
    argv = [*map(str, made), "--with", str(made[0]), "--save", str(tmp_path / "rows.json")]
    codecs.main(argv)
    codecs.main(argv)
    assert calls == ["a", "b"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "| mini_onevision, lambda 0.1 | 3 | 105 | +0.0000 | +0.0000 to +0.0000, over pages alone | 1 |"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--first-book", "-5"], "--first-book -5: books are counted from 0"),
        (["--pages", "1"], "--pages 1: an interval over pages needs at least 2"),
        (["--pages", "9999999"], "--pages 9999999: the books 210000 to 210007 have 776 pages"),
    ],
)
def test_pages_that_there_are_not_are_refused(
    given: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any folder is read."""
    with pytest.raises(SystemExit):
        codecs.main(["nowhere", *given])
    assert sentence in capsys.readouterr().err


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


@pytest.mark.slow
def test_a_saved_row_is_not_measured_again(tmp_path: Path) -> None:
    """What was written is read as it was; the digest is of the folder's files, the backbone and the pages."""
    rows = (row(3, [(90, 0.4), (120, 0.6)]),)
    path = tmp_path / "rows.json"
    assert held_out.Saved(path, codecs.ROWS).rows("a", lambda: rows) == rows
    assert held_out.Saved(path, codecs.ROWS).rows("a", lambda: pytest.fail("measured again")) == rows
    folder = codec_folder(tmp_path / "one")
    one = codecs.read(folder)
    digests = [codecs.digest(one, 96, 1), codecs.digest(one, 96, 2)]
    for name in ("codec.safetensors", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"1")
        digests.append(codecs.digest(one, 96, 1))
    digests.append(codecs.digest(one._replace(backbone="mini-nano"), 96, 1))
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("text", ['{"a": [{"b": 1}]}', '{"a": 1}', "[]", '{"a": [[1]]}', "{"])
def test_a_file_of_something_else_is_no_saved_rows(tmp_path: Path, text: str) -> None:
    """One sentence with the file's name, before anything is measured, and the file stays."""
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises((ResultsError, CheckpointError), match=r"rows\.json: "):
        held_out.Saved(path, codecs.ROWS)
    assert path.read_text() == text
