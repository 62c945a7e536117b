"""Figures can be read: of few schemes and of many, on a page and in a column, whatever is drawn."""

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.lines import Line2D
from PIL import Image
from rich.console import Console

from harness.analysis import Analysis
from harness.report import grids, page
from harness.report.energy import energy_table
from harness.report.figures import gallery, latency_bars, sheet, style
from harness.report.figures.sheet import Provenance
from harness.runs.illustrations import Bits, Case, Cases, Density, Fit, Histogram, Illustrations
from tests.made_up_run import make
from tests.report import many_schemes
from tests.report.readable import assert_readable, bars_of, texts, xy_of

PAGE, COLUMN = style.WIDTHS_IN["page"], style.WIDTHS_IN["column"]


@pytest.fixture(autouse=True)
def _styled() -> Iterator[None]:
    with style.styled():
        yield


@pytest.fixture(scope="module")
def few() -> Analysis:
    """Two schemes, one uplink."""
    return _illustrated(many_schemes.make(Path("/nowhere"), 2, 1))


@pytest.fixture(scope="module")
def many() -> Analysis:
    """Sixteen schemes, some of long and strange names, and eight uplinks."""
    return _illustrated(many_schemes.make(Path("/nowhere"), 16, 8))


@pytest.fixture(scope="module")
def named() -> Analysis:
    """Five schemes, and five uplinks of long names, from 1 B/s to 100 MB/s."""
    return _illustrated(many_schemes.make(Path("/nowhere"), 5, 0, named=many_schemes.LONG))


def _illustrated(run: Analysis) -> Analysis:
    """The run with illustrations of as many schemes."""
    names = list(run.manifest.points)
    fits = {family: Fit(location=0.0, scale=1.0, log_likelihood=-1.5) for family in ("Gaussian", "Laplacian", "Cauchy")}
    histogram = Histogram(elements=9, edges=(-2.0, -1.0, 0.0, 1.0, 2.0), density=(0.1, 0.4, 0.4, 0.1), fits=fits)
    bits = [
        Bits(pipeline=name, point=next(iter(run.manifest.points[name])), part=part, bits=100.0 * (1 + n), pictures=3)
        for name in names
        for n, part in enumerate(("envelope", "header", "experts", "z", "y", "a part of another kind"))
    ]
    density = Density(pipeline=names[1], point="-", pictures=3, unmerged=histogram, merged=histogram)
    run.__dict__["illustrations"] = Illustrations(run="", machine="", density=density, bits=tuple(bits))
    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", list(gallery.FIGURES))
@pytest.mark.parametrize("width_in", [PAGE, COLUMN], ids=["page", "column"])
def test_everything_can_be_read(few: Analysis, many: Analysis, named: Analysis, name: str, width_in: float) -> None:
    """Of 2 schemes and 1 uplink, of 16 and 8, and of long names, all words are on the page and apart."""
    # A column is the harder width; the small run is hard because there is little to draw.
    runs = ([many] if name in ("fig12", "fig8", "crossover", "table1") else []) if width_in == PAGE else [few, many]
    runs += [named] if name in ("fig8", "ecdf", "timeline", "crossover") else []
    for run in runs:
        if not gallery.chart(name).missing(run):
            figure, data = gallery.chart(name).draw(run, width_in)
            assert figure.get_size_inches()[0] == width_in
            assert len(data)
            assert_readable(figure)


@pytest.mark.slow
def test_titles_take_the_room_of_their_own_row(named: Analysis) -> None:
    """Above a row of panels is room for its own longest title, not for that of another row."""
    figure, _ = gallery.chart("fig8").draw(named, COLUMN)
    figure.draw_without_rendering()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    tops = sorted({box.y1 for box in boxes}, reverse=True)
    bottoms = sorted({box.y0 for box in boxes}, reverse=True)
    titles = [
        max(axes.title.get_window_extent().y1 for axes, box in zip(figure.axes, boxes, strict=True) if box.y1 == top)
        for top in tops
    ]
    assert len(tops) == 3
    above_in = [(below - title) / figure.dpi for below, title in zip(bottoms, titles[1:], strict=False)]
    assert max(above_in) - min(above_in) < 0.05
    # They differ, so that rows of one height would not pass.
    heights_in = [(title - top) / figure.dpi for title, top in zip(titles, tops, strict=True)]
    assert max(heights_in) - min(heights_in) > 0.2


@pytest.mark.slow
def test_uplinks_whose_sentence_is_left_out_are_counted(named: Analysis, many: Analysis) -> None:
    """The latency figure's footnote has a sentence for each of four uplinks, or says where the others' are."""
    four = list(many_schemes.LONG)[:4]
    run = Analysis(named.record)
    run.__dict__["first"] = named.first[named.first["channel"].isin(four)]
    run.__dict__["numbers"] = named.numbers[named.numbers["channel"].isin(four)]
    assert [said.partition(":")[0] for said in latency_bars._first(run)] == four
    for of, others in ((named, 2), (many, 5)):
        *sentences, last = latency_bars._first(of)
        assert len(sentences) == 3
        assert last == f"who answers first at the other {others} uplinks is in first.csv, and 'harness show' prints it"


@pytest.mark.slow
@pytest.mark.parametrize("width_in", [PAGE, COLUMN])
def test_users_can_be_read(width_in: float) -> None:
    """Users against p99: the loads are those of the rows, uncertified values are hollow, and all is readable."""
    arrivals = {"kind": "poisson", "rate_hz": 1.0}
    # A rate of 100 MB/s gives the utilisation long labels.
    named = dict(list(many_schemes.LONG.items())[2:])
    run = many_schemes.make(Path("/nowhere"), 5, 0, users=(1, 2, 16), named=named, arrivals=arrivals, deadline_s=2.0)
    figure, data = gallery.chart("users").draw(run, width_in)
    assert_readable(figure)
    assert set(data["users"]) == {1, 2, 16}
    assert not data["certified"].any()
    row = data[(data["pipeline"] == "tofc") & (data["users"] == 16)].iloc[0]
    busy_s = run.profile("tofc", str(row["point"])).server_s.mean()
    assert row["servers"] == pytest.approx(16 * busy_s)
    assert row["device"] == pytest.approx(run.profile("tofc", str(row["point"])).device_s.mean())
    solid = [line for line in figure.axes[0].lines if line.get_fillstyle() == "full" and line.get_linestyle() == "None"]
    assert not any(len(xy_of(line)[0]) for line in solid)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fig6", "fig7", "table1"])
def test_several_benchmarks_can_be_read(name: str) -> None:
    """A panel for each benchmark, named with all that it stands in for; fig7 has one of their average."""
    run = many_schemes.make(Path("/nowhere"), 3, 1)
    names = pa.array(["StreetsQA" if n % 2 else "MMStar" for n in range(run.record.samples.num_rows)])
    place = run.record.samples.column_names.index("benchmark")
    samples = run.record.samples.set_column(place, run.record.samples.schema.field(place), names)
    swaps = dict.fromkeys(("RealWorldQA", "AI2D_TEST", "MMBench_DEV_EN"), "StreetsQA")
    facts = {"benchmarks": ("StreetsQA", "MMStar"), "stand_ins": swaps}
    record = dataclasses.replace(run.record, samples=samples, manifest=run.manifest.model_copy(update=facts))
    figure, data = gallery.chart(name).draw(Analysis(record), COLUMN)
    assert_readable(figure)
    assert len(figure.axes) == {"fig6": 2, "fig7": 1}.get(name, len(figure.axes))
    if name == "table1":
        assert {"StreetsQA", "MMStar", "average"} <= set(data)


@pytest.mark.slow
def test_cases_can_be_read(made_up: Analysis, tmp_path: Path) -> None:
    """A case shows both answers, the sizes and the rule; the areas are those of the labels."""
    run = Analysis(make(tmp_path / "run"))
    for name in ("a.png", "b.png"):
        (run.record.folder / "illustrations").mkdir(exist_ok=True)
        Image.new("RGB", (60, 40), "#336699").save(run.record.folder / "illustrations" / name)
    labels = ((0, 0, 1, 1), (0, 0, 1, 1), (2, 2, 2, 2), (2, 2, 2, 2))
    case = Case(
        sample="q1", question="Which way does the arrow point, [left] or $it$?" * 4, options={"A": "left", "B": "it"},
        truth="A", answer="A", jpeg_answer="B", jpeg_right=False, payload_bytes=400, jpeg_bytes=390,
        jpeg="quality 1, at 1/4 of its width and height", labels=labels, shown="a.png", left="b.png",
    )  # fmt: skip
    cases = Cases(pipeline="tofc", point="n_c=2", rule="the first two of ten", cases=(case, case))
    run.__dict__["illustrations"] = Illustrations(run="", machine="", cases=cases)
    for width_in in (PAGE, COLUMN):
        figure, _ = gallery.chart("fig9").draw(run, width_in)
        assert_readable(figure)
        said = " ".join(text.get_text() for text in texts(figure))
        for words in ("400 B", "390 B", "he first two of ten", "A (right)", "B (wrong"):
            assert words in said
        areas = [np.asarray(axes.images[-1].get_array()) for axes in figure.axes if len(axes.images) == 2]
        assert len(areas) == 2
        # Equal labels have equal shades, different ones different.
        assert len(np.unique(areas[0])) == 3
        assert all(len(np.unique(areas[0][np.array(labels) == n])) == 1 for n in range(3))


@pytest.mark.slow
@pytest.mark.parametrize("width_in", [PAGE, COLUMN])
def test_energy_can_be_read(width_in: float) -> None:
    """A panel per rail, never their sum: bars are the joules of an answer, those above idle framed, sources hatched.

    What must be known of the joules is what the table says, by side and rail.
    """
    run = many_schemes.make(Path("/nowhere"), 4, 1)
    calibration = {"device/VDD_IN": 2.0, "server/nope": 1.5}
    measure = {**run.manifest.scenario["measure"], "energy": {"calibration": calibration}}
    scenario = {**run.manifest.scenario, "measure": measure}
    manifest = run.manifest.model_copy(update={"scenario": scenario})
    run = Analysis(dataclasses.replace(run.record, manifest=manifest))
    points = run.points[run.points["selected"]].set_index("pipeline")["point"]
    rows = [
        {"pipeline": name, "point": points[name],
         "side": side, "rail": rail, "sensor": "INA3221", "blocks": 3, "gross_j": 2.0 + n, "gross_low_j": 1.9 + n,
         "gross_high_j": 2.2 + n, "net_j": 1.0 + n, "net_low_j": 0.9 + n, "net_high_j": 1.1 + n,
         "calibrated": f"{side}/{rail}" in calibration, "source": "recorded" if rail == "package" else "measured",
         "machine": "a board", "shortest_s": 1.0}
        for n, name in enumerate(list(run.manifest.points)[:3])
        for side, rail in (("device", "VDD_IN"), ("device", "VDD_GPU_SOC"), ("server", "package"))
    ]  # fmt: skip
    run.__dict__["energy"] = pd.DataFrame(rows)
    figure, data = gallery.chart("energy").draw(run, width_in)
    assert_readable(figure)
    assert len(data) == len(rows)
    assert [axes.get_title() for axes in figure.axes] == ["device: VDD_IN", "device: VDD_GPU_SOC", "server: package"]
    for axes, hatch in zip(figure.axes, (None, None, style.HATCHES["recorded"]), strict=True):
        assert [bar.get_width() for bar in bars_of(axes)] == pytest.approx([2, 1, 3, 2, 4, 3])
        assert {patch.get_hatch() for patch in axes.patches[::2]} == {hatch}
    shown = " ".join(" ".join(text.get_text() for text in texts(figure)).split()).lower()
    file = io.StringIO()
    Console(width=300, file=file).print(energy_table(run))
    printed = file.getvalue().lower()
    on_page: Any = page._section(0, run, [], [])["notes"]
    for note in (
        "calibrated by the scenario: device/VDD_IN",
        "calibrated, but not measured: server/nope",
        "uncalibrated, because not compared with an external meter: device's VDD_GPU_SOC, server's package",
        "blocks of 1 s are shorter than 30 s",
        "some are recorded",
    ):
        assert note.lower() in shown
        assert note.lower() in printed
        assert note in " ".join(on_page)
    (grid,) = [grid for grid in grids.tables(run) if grid.caption.startswith("Energy")]
    place = [column.head for column in grid.columns].index("calibrated")
    assert [row[place].text for row in grid.rows] == ["by the scenario", "no", "no"] * 3


def test_legends_are_as_full_as_they_can_be() -> None:
    """Every entry is there once, in order, and no row is wider than the page."""
    labels = [f"scheme {n} " + "x" * (n * 7 % 40) for n in range(20)]
    about = Provenance(title="t", stand_ins="", warnings=[], sources="s")
    made = sheet.Sheet(COLUMN, 1.0, about, [Line2D([], [], label=label) for label in labels])
    shown = [text.get_text() for row in made.figure.legends for text in row.get_texts()]
    assert [" ".join(words.split()) for words in shown] == [" ".join(label.split()) for label in labels]
    assert_readable(made.figure)
