"""Figures: what is drawn agrees with the rows, is readable, and has its provenance."""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from harness.analysis import Analysis
from harness.errors import ResultsError
from harness.report.figures import gallery, latency_bars, rate_performance, sheet, style
from harness.report.figures.sheet import Provenance, of
from harness.runs import illustrations
from harness.runs.illustrations import Illustrations
from tests.made_up_run import make
from tests.report import many_schemes
from tests.report.readable import assert_readable, bars_of, texts, xy_of

ABOUT = Provenance(
    title="A study: of something",
    stand_ins="stand-ins: StreetsQA for RealWorldQA",
    warnings=["INVALID: timed on 6 requests, where 11 certify a median: jpeg at quality=2 and 3 more"],
    sources="Timed on a processor, 2 cores. Run tonight, INVALID, scenario 5f0c, code 1234567",
)
PARTS = ("device", "link", "server", "total")
PAGE, COLUMN = style.WIDTHS_IN["page"], style.WIDTHS_IN["column"]


@pytest.fixture(autouse=True)
def _styled() -> Iterator[None]:
    with style.styled():
        yield


@pytest.fixture
def numbers(made_up: Analysis) -> pd.DataFrame:
    """The made-up run's closing table."""
    return made_up.numbers


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Ba$$in: ($5) and ($_10)", r"[red]\frac{1}{2}$^$[/red]"])
def test_a_name_is_drawn_letter_by_letter(made_up: Analysis, numbers: pd.DataFrame, tmp_path: Path, name: str) -> None:
    """Titles, uplinks and schemes are drawn unchanged; none is read as a formula or stops the drawing."""
    about = Provenance(title=name, stand_ins=name, warnings=[name], sources=name)
    channels = dict.fromkeys(numbers["channel"].dropna().unique()[:1], name)
    bars = latency_bars.bars(numbers.replace({"channel": channels, "pipeline": {"jpeg": name}}), PARTS, about)
    style.save(bars, tmp_path, "bars", ("svg",))
    assert any(name in text.get_text().replace("\n", " ") for text in bars.findobj(Text))
    assert not any(text.get_parse_math() for text in bars.findobj(Text))


def bars_axes(figure: Figure) -> list[Axes]:
    """The axes that hold bars."""
    return [axes for axes in figure.axes if any(isinstance(patch, Rectangle) for patch in axes.patches)]


@pytest.mark.slow
def test_bars_are_the_rows(numbers: pd.DataFrame) -> None:
    """The widths drawn at each uplink are the mean seconds of device, link and server, stacked to the total."""
    panels = bars_axes(latency_bars.bars(numbers, PARTS, ABOUT))
    uplinks = list(dict.fromkeys(numbers["channel"].dropna()))
    assert len(panels) == len(uplinks) == 3
    for axes, uplink in zip(panels, uplinks, strict=True):
        rows = numbers[numbers["channel"] == uplink]
        widths = np.array([bar.get_width() for bar in bars_of(axes)]).reshape(-1, 3)
        assert widths == pytest.approx(rows[["device_mean_s", "link_mean_s", "server_mean_s"]].to_numpy(float))
        ends = [bar.get_x() + bar.get_width() for bar in bars_of(axes)][2::3]
        assert ends == pytest.approx(rows["total_mean_s"].tolist())


@pytest.mark.slow
def test_the_score_is_shown_once(numbers: pd.DataFrame) -> None:
    """For any number of uplinks there is one panel of scores, with each scheme's; without a claim none."""
    for scored in (True, False):
        figure = latency_bars.bars(numbers, PARTS, ABOUT, scored=scored)
        panels = [axes for axes in figure.axes if axes.get_title() == "score"]
        assert len(panels) == scored
    drawn = sorted(x for line in latency_bars.bars(numbers, PARTS, ABOUT).axes[0].lines
                   if line.get_marker() == "o" for x in np.atleast_1d(line.get_xdata()))  # fmt: skip
    assert drawn == pytest.approx(sorted(numbers.drop_duplicates("pipeline")["score"]))


@pytest.mark.slow
def test_sources_are_hatched(numbers: pd.DataFrame) -> None:
    """A part that this run did not time is hatched as its source is, and the legend names the sources that occur."""
    for source in ("estimated", "recorded", "reported"):
        figure = latency_bars.bars(numbers.replace({"server_source": {"estimated": source}}), PARTS, ABOUT)
        rows = numbers[numbers["channel"] == "25 KB/s"].reset_index(drop=True)
        hatches = np.array([patch.get_hatch() or "" for patch in bars_axes(figure)[0].patches]).reshape(-1, 3)
        expected = rows["pipeline"].eq("server_only").to_numpy()
        assert set(hatches[expected, 2]) == {style.HATCHES[source]}
        assert set(hatches[~expected, 2]) | set(hatches[:, :2].ravel()) == {""}
        legend = {text.get_text() for row in figure.legends for text in row.get_texts()}
        assert legend & set(style.HATCHES) == {source}


@pytest.mark.slow
def test_schemes_that_miss_the_target_are_labelled(made_up: Analysis, numbers: pd.DataFrame) -> None:
    """A scheme without a point at equal score has a text instead of a bar, in every panel and the curves' legend."""
    words = [text.get_text() for text in texts(latency_bars.bars(numbers, PARTS, ABOUT))]
    assert words.count("does not reach") == 3
    figure, _ = gallery.chart("fig6").draw(made_up, PAGE)
    assert "device_only (sends nothing; does not reach)" in [text.get_text() for text in texts(figure)]
    nothing = numbers[~numbers["shown"]]
    figure = latency_bars.bars(nothing, PARTS, ABOUT)
    assert "no scheme reaches the target" in [text.get_text() for text in texts(figure)]
    assert_readable(figure)


@pytest.mark.slow
def test_a_bar_that_is_cut_has_its_value_and_interval(numbers: pd.DataFrame) -> None:
    """The axis ends before it, and at the cut are its mean and both ends of its interval."""
    panel = bars_axes(latency_bars.bars(numbers, PARTS, ABOUT))[0]
    slowest = numbers.nlargest(1, "total_mean_s").iloc[0]
    assert panel.get_xlim()[1] < slowest["total_mean_s"]
    ends = f"[{slowest['total_mean_low_s']:.2f}, {slowest['total_mean_high_s']:.2f}]"
    assert f"{slowest['total_mean_s']:.2f} {ends}" in [text.get_text() for text in panel.texts]
    narrow = bars_axes(latency_bars.bars(many_uplinks(numbers), PARTS, ABOUT, COLUMN))[0]
    cut = next(text.get_text() for text in narrow.texts if f"{slowest['total_mean_s']:.2f}" in text.get_text())
    assert "±" in cut or "[" in cut


@pytest.mark.slow
@pytest.mark.parametrize("width_in", [PAGE, COLUMN], ids=["page", "column"])
@pytest.mark.parametrize("factor", [1, 1e4, 1e6])
def test_a_cut_can_be_seen(numbers: pd.DataFrame, factor: float, width_in: float) -> None:
    """Left of the value of every bar that is cut is the mark of the cut, also where values have many digits."""
    times = [name for name in map(str, numbers) if name.endswith("_s")]
    figure = latency_bars.bars(numbers.assign(**factor * numbers[times]), PARTS, ABOUT, width_in)
    figure.draw_without_rendering()
    cuts = [(axes, text) for axes in bars_axes(figure) for text in axes.texts if text.get_bbox_patch()]
    assert cuts
    for axes, text in cuts:
        y = text.get_position()[1]
        marks = [xy_of(line)[0] for line in axes.lines if line.get_color() == "white" and xy_of(line)[1].mean() == y]
        left = axes.transData.inverted().transform((text.get_window_extent().x0, 0))[0]
        assert len(marks) == 2
        assert all(x.min() > 0 and x.max() < left for x in marks)


def many_uplinks(numbers: pd.DataFrame) -> pd.DataFrame:
    """The table with nine uplinks, made up from its three."""
    timed = numbers[numbers["channel"].notna()]
    return pd.concat([numbers, *(timed.assign(channel=timed["channel"] + f", again {n}") for n in range(2))])


@given(st.floats(1e-4, 1e4), st.floats(0.5, 5))
def test_no_tick_is_so_near_to_the_end_that_labels_of_two_panels_meet(limit_s: float, wide_in: float) -> None:
    """There are two at least, the first at 0, and the last leaves room for half of its label."""
    first, *_, last = latency_bars.ticks(limit_s, wide_in)
    assert first == 0 < last
    assert wide_in * (1 - last / limit_s) > 0.12


@pytest.mark.slow
@given(st.lists(st.tuples(st.floats(0.001, 100), st.floats(1, 2)), min_size=1, max_size=30))
def test_every_bar_has_room_for_its_interval_or_is_cut(bars: list[tuple[float, float]]) -> None:
    """An axis ends beyond each interval of the bars that it does not cut, and cuts none below three medians."""
    values, highs = (pd.Series(np.array(of, float)) for of in ([s for s, _ in bars], [s * wide for s, wide in bars]))
    end = sheet.end_of_axis(values, highs)
    assert (1.3 * highs[values <= end] <= end).all()
    assert (values <= 3 * values.median()).sum() <= (values <= end).sum()


@pytest.mark.slow
def test_curves_are_the_fitted_ones(made_up: Analysis) -> None:
    """A ladder's points are marked where the rows have them; its line is its fitted curve and meets no other ladder."""
    figure, _ = gallery.chart("fig6").draw(made_up, PAGE)
    assert_readable(figure)
    lines, looks = figure.axes[0].lines, style.looks(made_up.manifest)
    for (pipeline, name), ladder in made_up.ladders.items():
        rows = made_up.points[(made_up.points["pipeline"] == pipeline) & (made_up.points["ladder"] == name)]
        mine = [line for line in lines if line.get_color() == looks[pipeline].colour]
        (marked,) = [
            line for line in mine
            if line.get_marker() == looks[pipeline].marker and sorted(xy_of(line)[0]) == pytest.approx(
                sorted(rows["payload_bytes"] / 1000))
        ]  # fmt: skip
        assert sorted(xy_of(marked)[1]) == pytest.approx(sorted(rows["score"]))
        assert marked.get_linestyle() == "None"
        ends = ladder.payload_bytes[[0, -1]] / 1000
        curve = next(line for line in mine if len(xy_of(line)[0]) == 64
                     and xy_of(line)[0][[0, -1]] == pytest.approx(ends))  # fmt: skip
        assert xy_of(curve)[1] == pytest.approx(ladder.curve.at(np.linspace(0, 1, 64))[0])
    rings = [line for line in lines if line.get_markersize() == 10 and len(xy_of(line)[0])]
    selected = made_up.points[made_up.points["selected"]]
    assert sorted(xy_of(line)[0][0] for line in rings) == pytest.approx(sorted(selected["payload_bytes"] / 1000))


@pytest.mark.slow
def test_a_point_far_beyond_the_curves_is_at_the_edge(made_up: Analysis) -> None:
    """A scheme of one point that sends four times as much does not move the axis: it is at its end, with its size."""
    points = made_up.points.copy()
    far = points["pipeline"] == "server_only"
    before = rate_performance.limits(points[~far])
    points.loc[far, "payload_bytes"] = 160_000.0
    assert rate_performance.limits(points) == before
    panel = rate_performance.Panel(points, made_up.ladders, 70.0)
    figure = rate_performance.curves(made_up, [panel], COLUMN)
    assert_readable(figure)
    axes = figure.axes[0]
    star = next(line for line in axes.lines if line.get_marker() == "*")
    assert xy_of(star)[0][0] == pytest.approx(axes.get_xlim()[1])
    assert any("at the edge: 160 KB" in text.get_text() for text in texts(figure))
    points.loc[far, "payload_bytes"] = before[1] * 1000 * 1.5
    assert rate_performance.limits(points)[1] == pytest.approx(1.5 * before[1])


@pytest.mark.slow
def test_the_same_rows_give_the_same_files(made_up: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PNG, SVG and PDF do not depend on when or how often they are drawn; if one cannot be written, none is."""
    first, again = (
        [file.read_bytes() for file in gallery.draw(made_up, "fig6", tmp_path / folder, widths=("column",))]
        for folder in "ab"
    )
    assert first == again
    figure, savefig = style.page(1, 1), Figure.savefig

    def full(self: Figure, file: IO[bytes], *, format: str, **how: Any) -> None:  # noqa: A002
        if format == "pdf":
            raise OSError(28, "No space left on device")
        savefig(self, file, format=format, **how)

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(ResultsError, match="fig6 cannot be written: No space"):
        style.save(figure, tmp_path / "c", "fig6")
    with pytest.raises(ResultsError, match="unknown format of figures 'bmp'; known: pdf, png, svg"):
        style.save(figure, tmp_path / "c", "fig6", ("png", "bmp"))
    assert not list((tmp_path / "c").iterdir())


def test_no_two_schemes_of_a_run_look_alike() -> None:
    """Known names have fixed looks; others get the next free ones, the same every time."""
    known = [name for name in style._LOOKS if name not in ("tofc_selective", "fmm", "centres")]
    names = [*known, *(f"mine {n}" for n in range(16))]
    looks = style.looks_of({name: name for name in names})
    assert len({look.marker for look in looks.values()}) == len(names)
    assert len(set(looks.values())) == len(names)
    assert looks == style.looks_of({name: name for name in names})
    assert style.looks_of({"mine": "mine", "jpeg": "jpeg"})["jpeg"] == looks["jpeg"]
    # A pipeline that the scenario calls by another name looks like its scheme; the second of that scheme does not.
    renamed = style.looks_of({"fine": "tofc", "coarse": "tofc"})
    assert renamed["fine"] == looks["tofc"] != renamed["coarse"]
    both = style.looks_of({"centres": "tofc_unmerged", "visionzip_merging": "visionzip_merging"})
    assert both["centres"].marker != both["visionzip_merging"].marker


_SEEN_BY = MappingProxyType({
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
})  # fmt: skip
"""Machado, Oliveira and Fernandes (2009): linear RGB as seen without one kind of cone."""


def test_the_papers_schemes_are_distinct_without_red_or_green() -> None:
    """Between any two of the paper's six schemes the colours differ by a tenth or more for each kind of vision."""
    names = ["tofc", "jpeg", "webp", "hyperprior", "elic", "server_only"]
    linear = np.array([to_rgb(style._LOOKS[name][0]) for name in names]) ** 2.2
    for matrix in (np.eye(3), *map(np.array, _SEEN_BY.values())):
        seen = np.clip(linear @ matrix.T, 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=2) + np.eye(len(names))
        assert apart.min() > 0.1
    grey = np.array([to_rgb(colour) for colour in style.PARTS.values()]) @ [0.299, 0.587, 0.114]
    assert np.diff(np.sort(grey)).min() > 0.1


@pytest.mark.slow
def test_provenance_is_on_the_figure(made_up: Analysis) -> None:
    """Benchmark, stand-in, machines, run, verdict, scenario and commit are on the figure."""
    figure = latency_bars.bars(made_up.numbers, PARTS, of(made_up, "a subtitle", ["a note", "jpeg: as it is"]))
    written = " ".join(text.get_text() for text in texts(figure))
    manifest = made_up.manifest
    for fact in (
        "StreetsQA (stand-in for RealWorldQA): a subtitle", "mini-onevision for llava-onevision-7b", "A note. jpeg: as",
        "a processor, 2 cores", "INVALID: throttled", manifest.scenario_hash, manifest.commits, "at low uplink rates",
    ):  # fmt: skip
        assert fact in written


@pytest.mark.slow
def test_crossings_are_those_of_the_lines() -> None:
    """At each rate that is marked the two schemes' sums of timed stages and 8 bytes / rate are equal."""
    _, data = gallery.chart("crossover").draw(many_schemes.make(Path("/nowhere"), 9, 4), PAGE)
    crossings, means = data[data["kind"] == "crossing"], data[data["kind"] == "mean"]
    assert len(crossings) >= 3

    def mean_s(name: str, rate_bps: float) -> float:
        own = means[means["pipeline"] == name].iloc[0]
        return float(own["mean_s"] - own["link_s"] + own["link_s"] * own["rate_bps"] / rate_bps)

    for row in crossings.to_dict("records"):
        below, above, rate_bps = row["below"], row["above"], row["rate_bps"]
        assert mean_s(below, rate_bps) == pytest.approx(mean_s(above, rate_bps), rel=1e-3)
        assert mean_s(below, rate_bps) == pytest.approx(row["mean_s"], rel=1e-3)
        assert mean_s(below, rate_bps / 1.3) < mean_s(above, rate_bps / 1.3)


@pytest.mark.slow
def test_distributions_and_timelines_are_the_rows(made_up: Analysis) -> None:
    """The share at the last step is 1, at the slowest request; a timeline's stretches end at its request's latency."""
    _, curves = gallery.chart("ecdf").draw(made_up, PAGE)
    for cell, seconds_R in made_up.spent():
        mine = curves[(curves["pipeline"] == cell["pipeline"]) & (curves["channel"] == cell["channel"])]
        assert mine["share"].iloc[-1] == 1
        assert mine["seconds"].iloc[-1] == pytest.approx(seconds_R.max())
        assert len(mine) == seconds_R.size
    _, line = gallery.chart("timeline").draw(made_up, PAGE)
    requests = made_up.record.requests.to_pandas()
    for (channel, pipeline), rows in line.groupby(["channel", "pipeline"]):
        ends = (rows["begin_s"] + rows["seconds"]).to_numpy()
        assert ends[:-1] == pytest.approx(rows["begin_s"].to_numpy()[1:])
        own = requests[(requests["channel"] == channel) & (requests["pipeline"] == pipeline)]
        own = own[(own["point"] == rows["point"].iloc[0]) & (own["sample"] == rows["sample"].iloc[0])]
        assert np.abs(own["answered_s"] - ends[-1]).min() < 1e-9


def test_a_timeline_is_of_a_question_that_was_replayed(tmp_path: Path) -> None:
    """Of few replayed requests none may be of the median picture; a scheme without an answer there has no stages."""
    record = make(tmp_path / "few")
    requests = record.requests
    of_jpeg = pc.and_(pc.equal(requests["pipeline"], "jpeg"), pc.equal(requests["channel"], "25 KB/s"))
    wanted = pc.and_(pc.equal(requests["sample"], "q040"), pc.invert(of_jpeg))
    run = Analysis(dataclasses.replace(record, requests=requests.filter(wanted)))
    figure, line = gallery.chart("timeline").draw(run, PAGE)
    assert set(line["sample"]) == {"q040"}
    slow = line[line["channel"] == "25 KB/s"].groupby("pipeline")["stage"].agg(list)
    assert "jpeg" not in slow
    assert all("link" in stages for pipeline, stages in slow.items() if pipeline != "device_only")
    assert "not answered" in [text.get_text() for text in texts(figure)]
    none = Analysis(dataclasses.replace(record, requests=requests.filter(pc.equal(requests["sample"], "none"))))
    assert "nothing was replayed" in gallery.chart("timeline").missing(none)


def test_a_timeline_has_the_stages_in_the_order_in_which_they_happened(made_up: Analysis) -> None:
    """A server decodes a picture before it looks at it."""
    _, line = gallery.chart("timeline").draw(made_up, PAGE)
    stages = line[(line["pipeline"] == "jpeg") & (line["channel"] == "25 KB/s")]["stage"].tolist()
    assert stages == ["encode", "link", "decode", "vision_encode", "prefill", "generate"]


def test_a_run_in_which_no_scheme_reaches_the_target_has_no_figures_of_its_requests(tmp_path: Path) -> None:
    """Not even the reference reaches a target above its own score."""
    selection = {"reference": "server_only", "target": 1.3, "margin": 0.04, "confidence": 0.95, "resamples": 100}
    run = Analysis(make(tmp_path / "high", selection=selection))
    assert all("no scheme" in gallery.chart(name).missing(run) for name in ("ecdf", "timeline"))


@pytest.mark.slow
def test_table_one_in_all_its_forms(made_up: Analysis, tmp_path: Path) -> None:
    """Picture, CSV, Markdown and LaTeX have the same numbers; the best of those with as many tokens is bold."""
    gallery.draw(made_up, "table1", tmp_path, widths=("column",))
    numbers = pd.read_csv(tmp_path / "table1.csv")
    merged = numbers[numbers["visual_tokens"] == 32].set_index("pipeline")
    best = str(merged["StreetsQA"].idxmax())
    points = made_up.points[made_up.points["visual_tokens"] == 32]
    assert merged["StreetsQA"].to_dict() == pytest.approx(points.groupby("pipeline")["score"].max().to_dict())
    markdown, latex = ((tmp_path / f"table1.{ending}").read_text() for ending in ("md", "tex"))
    assert f"| {best} | 32 | **{merged['StreetsQA'][best]:.1f}**" in markdown
    assert f"\\textbf{{{merged['StreetsQA'][best]:.1f}}}" in latex
    assert "raw\\_features" in latex
    assert latex.count("{") == latex.count("}")
    assert "stand-in" in markdown
    assert "stand-in" in latex


@pytest.mark.slow
def test_draws_all_of_a_run_and_of_a_folder(made_up: Analysis, tmp_path: Path) -> None:
    """A run's folder gives two figures in all forms and tables; named ones come alone; an empty folder is refused."""
    files = list(gallery.draw_all(made_up.record.folder))
    forms = [f"{width}.{kind}" for width in ("", "_column") for kind in style.FORMATS]
    figures = {f"{name}{form}" for name in ("fig6", "fig8") for form in (*forms, ".csv")}
    tables = {"table.csv", "table.md", "comparison.md", "categories.csv", "first.csv", "equal_score.csv"}
    assert {file.name for file in files} == figures | tables | {"latency_at_equal_score.csv"}
    assert all(file.stat().st_size > 0 and file.parent == made_up.record.folder / "figures" for file in files)
    labelled = {file.name: pd.read_csv(file)["labels"].str.contains(made_up.manifest.label, regex=False).all()
                for file in files if file.suffix == ".csv"}  # fmt: skip
    assert labelled == dict.fromkeys(labelled, True)
    assert (made_up.record.folder / "figures" / "fig6.png").read_bytes().startswith(b"\x89PNG")
    above = list(gallery.draw_all(made_up.record.folder.parent, tmp_path / "out", ["timings"]))
    assert {file.parent for file in above} == {tmp_path / "out" / "tonight"}
    assert {file.stem for file in above} == {"timings", "timings_column"}
    (tmp_path / "empty").mkdir()
    for folder, said in (
        ("empty", "neither a complete run nor a folder of runs"),
        ("nowhere", "no such folder; a run"),
    ):
        with pytest.raises(ResultsError, match=said):
            list(gallery.draw_all(tmp_path / folder))
    with pytest.raises(ResultsError, match=r"fig13.*fig12"):
        list(gallery.draw_all(made_up.record.folder, figures=["fig13"]))
    (tmp_path / "taken").write_text("")
    with pytest.raises(ResultsError, match="cannot be written"):
        list(gallery.draw_all(made_up.record.folder, tmp_path / "taken", ["timings"]))


@pytest.mark.slow
def test_no_two_files_of_a_run_have_one_name(
    made_up: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No table is named as a figure, also of a run with energy; runs of one name go to folders of their own."""
    run = Analysis(made_up.record)
    run.__dict__["energy"] = pd.DataFrame({"pipeline": ["tofc"], "gross_j": [1.0]})
    tables = gallery._tables(run, tmp_path / "tables")
    assert "joules.csv" in {file.name for file in tables}
    figures = {
        f"{name}{width}" for name in gallery.FIGURES for width in ("", *(f"_{width}" for width in style.WIDTHS_IN))
    }
    assert len(figures) == 3 * len(gallery.FIGURES)
    assert not {file.stem for file in tables} & figures
    assert len({file.name for file in tables}) == len(tables)
    for place in ("mine", "yours"):
        shutil.copytree(made_up.record.folder, tmp_path / "runs" / place / "tonight")
    monkeypatch.setattr(gallery, "_drawn", lambda _, wanted, out: [out / name for name in wanted])
    files = list(gallery.draw_all(tmp_path / "runs", tmp_path / "out", ["timings"]))
    assert files == [tmp_path / "out" / place / "tonight" / "timings" for place in ("mine", "yours")]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_characters_that_no_font_has_are_named(harness: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """By the processes that draw, to the command, which prints each file."""
    folder = make(tmp_path / "foreign", title="Street \U000f1234 scenes").folder
    status, out, err = harness("plot", folder, "--figure", "fig6", "--figure", "timings")
    assert status == 0
    assert {Path(line).stem for line in out.split()} == {"fig6", "fig6_column", "timings", "timings_column"}
    assert err == "no font on this machine has \U000f1234: the figures show boxes there; Noto Sans CJK has many\n"


@pytest.mark.slow
def test_what_cannot_be_drawn_names_the_command(made_up: Analysis, tmp_path: Path) -> None:
    """Each figure that a run's rows cannot draw is refused in a sentence with a command; --all would leave it out."""
    can = gallery.names(made_up)
    absent = {name: gallery.chart(name).missing(made_up) for name in gallery.FIGURES if name not in can}
    assert {"fig4", "fig7", "fig9", "fig10", "fig12", "bits", "users", "memory", "energy"} <= set(absent)
    for name, sentence in absent.items():
        if sentence:
            assert "harness " in sentence
            with pytest.raises(ResultsError, match=f"{name} cannot be drawn"):
                gallery.draw(made_up, name, tmp_path)
    assert not list(tmp_path.iterdir())
    assert gallery.usual(made_up) == ["fig6", "fig8"]


@pytest.mark.slow
def test_illustrations_are_of_the_rows_that_are_there(tmp_path: Path) -> None:
    """Illustrations of other rows than the run's are not shown, and a damaged file is reported."""
    run = Analysis(make(tmp_path / "run"))
    folder, manifest = run.record.folder, run.manifest
    assert run.illustrations is None
    mine = Illustrations(run=illustrations.identity(manifest), machine="a processor")
    path = illustrations.write(folder, mine, {"a.png": b"picture"})
    assert illustrations.read(folder, manifest) == mine
    illustrations.write(folder, mine.model_copy(update={"run": "other"}), {})
    assert illustrations.read(folder, manifest) is None
    assert not (path / "a.png").exists()
    for damage in ("{", "[]", '{"run": 3}'):
        (path / illustrations.FILE).write_text(damage)
        with pytest.raises(ResultsError, match="harness illustrate"):
            illustrations.read(folder, manifest)


@pytest.mark.slow
def test_results_do_not_import_matplotlib() -> None:
    """Importing the results, as every run does, imports neither matplotlib nor torch; figures import no torch."""
    code = (
        "import sys, harness.report.table as _; print({'matplotlib', 'torch'} & set(sys.modules));"
        "from harness.report.figures import gallery; [gallery.chart(name) for name in gallery.FIGURES];"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "False"]


@pytest.mark.slow
def test_waiting_is_a_part_of_the_bars(tmp_path: Path) -> None:
    """A run with waiting has one more part in every bar, in its own colour, and the sum is the total."""
    run = Analysis(make(tmp_path / "run", wait_s=0.05))
    panel = bars_axes(latency_bars.bars(run.numbers, run.parts, ABOUT))[0]
    widths = np.array([bar.get_width() for bar in bars_of(panel)]).reshape(-1, 4)
    rows = run.numbers[run.numbers["channel"] == "25 KB/s"]
    wanted = rows[["device_mean_s", "link_mean_s", "wait_mean_s", "server_mean_s"]].to_numpy(float)
    assert widths == pytest.approx(wanted)
    assert widths.sum(axis=1) == pytest.approx(rows["total_mean_s"].tolist())


@pytest.mark.slow
def test_a_scheme_without_times_has_a_text_for_its_bar(numbers: pd.DataFrame) -> None:
    """A scheme that was not replayed, and one without answered requests, have a text instead of a bar."""
    jpeg, webp = numbers["pipeline"] == "jpeg", numbers["pipeline"] == "webp"
    times = [name for name in numbers.columns if str(name).endswith("_s")]
    changed = numbers.copy()
    changed.loc[webp, "total_done"] = 0
    changed.loc[webp, times] = np.nan
    changed = changed[~jpeg | (changed["channel"] == "25 KB/s")]
    changed.loc[changed["pipeline"] == "jpeg", ["replay", "channel", "users", "requests", *times]] = None
    figure = latency_bars.bars(changed, PARTS, ABOUT)
    words = [text.get_text() for text in texts(figure)]
    assert words.count("not replayed") == 3
    assert words.count("none answered") == 3
    assert_readable(figure)
