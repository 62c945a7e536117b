"""Figures: what is drawn is what the rows say, all of it can be read, and it says where it comes from."""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_run import make
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from harness.analysis import Analysis
from harness.errors import ResultsError
from harness.report.figures import latency_bars, rate_performance, style
from harness.report.figures.gallery import draw_all
from harness.report.figures.provenance import Provenance, of

ABOUT = Provenance(
    title="A study: of something",
    stand_ins="stand-ins: StreetsQA for RealWorldQA",
    warnings=["INVALID: timed on 6 requests, where 11 certify a median: jpeg at quality=2 and 3 more"],
    sources="Timed on a processor, 2 cores. Run tonight, INVALID, scenario 5f0c, code 1234567",
)


PARTS = ("device", "link", "server", "total")


@pytest.fixture(scope="module")
def points(made_up: Analysis) -> pd.DataFrame:
    """The made-up run's points."""
    return made_up.points


@pytest.fixture(scope="module")
def numbers(made_up: Analysis) -> pd.DataFrame:
    """The made-up run's closing table."""
    return made_up.numbers


@pytest.fixture(autouse=True)
def _styled() -> Iterator[None]:
    with style.styled():
        yield


def texts(figure: Figure) -> list[Text]:
    """Every text that is visible in a figure, ticks and legends included."""
    figure.draw_without_rendering()
    inside = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in inside if _is_shown(text, figure)]


def _is_shown(text: Text, figure: Figure) -> bool:
    """Whether a tick's label is on its axis; matplotlib keeps those beyond the limits and does not draw them."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            if any(text in (tick.label1, tick.label2) for tick in ticks):
                low, high = sorted(axis.get_view_interval())
                return any(
                    text in (tick.label1, tick.label2) and low <= tick.get_loc() <= high
                    for tick in axis._update_ticks()
                )
    return True


def assert_readable(figure: Figure) -> None:
    """No text leaves the page, none is smaller than 6 points, and no two overlap."""
    shown = texts(figure)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    page = figure.bbox
    upright = []
    for text in shown:
        box = text.get_window_extent(renderer)
        assert box.x0 >= page.x0 - 1, text
        assert box.x1 <= page.x1 + 1, text
        assert box.y0 >= page.y0 - 1, text
        assert box.y1 <= page.y1 + 1, text
        assert text.get_fontsize() >= 6
        if text.get_rotation() in (0, 90):
            upright.append((text.get_text(), box))
    for (first, a), (second, b) in itertools.combinations(upright, 2):
        overlap_x, overlap_y = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert overlap_x <= 1 or overlap_y <= 1, f"{first!r} and {second!r} overlap"


def with_uplinks(numbers: pd.DataFrame, n: int) -> pd.DataFrame:
    """The table of the first n uplinks, those beyond the third made up from the first."""
    names = list(dict.fromkeys(numbers["channel"].dropna()))
    tables = [numbers[~numbers["reaches"]]]
    for index in range(n):
        rows = numbers[numbers["channel"] == names[index % 3]]
        tables.append(rows.assign(channel=names[index] if index < 3 else f"cellular trace {index}"))
    return pd.concat(tables, ignore_index=True)


@pytest.mark.slow
@pytest.mark.parametrize("n_uplinks", [1, 3, 5])
def test_latency_bars_can_be_read(numbers: pd.DataFrame, n_uplinks: int) -> None:
    """With few uplinks and many, everything written is on the page and apart from everything else."""
    assert_readable(latency_bars.draw(with_uplinks(numbers, n_uplinks), PARTS, ABOUT))


def test_long_names_can_be_read(points: pd.DataFrame, numbers: pd.DataFrame) -> None:
    """Names and titles as long as a scenario allows are wrapped or given room."""
    long = {"tofc": "tofc-with-a-single-entropy-model-and-no-hyperprior", "jpeg": "jpeg-of-the-whole-uncropped-picture"}
    about = Provenance(title="T" * 20 + " word" * 20, stand_ins="", warnings=[], sources=ABOUT.sources)
    assert_readable(rate_performance.draw(points.replace({"pipeline": long}), about))
    assert_readable(latency_bars.draw(numbers.replace({"pipeline": long}), PARTS, about))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Ba$$in: ($5) and ($_10)", "plan $5_$ a month", "from $5 to $10", r"\frac{1}{2}$^$"])
def test_a_dollar_in_a_name_is_a_dollar(points: pd.DataFrame, numbers: pd.DataFrame, tmp_path: Path, name: str) -> None:
    """Titles, uplinks and schemes are drawn letter by letter; none is read as a formula, and none ends the drawing."""
    about = Provenance(title=name, stand_ins=name, warnings=[name], sources=name)
    channels = dict.fromkeys(numbers["channel"].dropna().unique()[:1], name)
    with style.styled():
        bars = latency_bars.draw(numbers.replace({"channel": channels, "pipeline": {"jpeg": name}}), PARTS, about)
        curves = rate_performance.draw(points.replace({"pipeline": {"jpeg": name}}), about)
        style.save(bars, tmp_path, "bars")
        style.save(curves, tmp_path, "curves")
    for figure in (bars, curves):
        assert any(name in text.get_text().replace("\n", " ") for text in figure.findobj(Text))
        assert not any(text.get_parse_math() for text in figure.findobj(Text))


def bars_axes(figure: Figure) -> list[Axes]:
    """The axes that hold bars."""
    return [axes for axes in figure.axes if any(isinstance(patch, Rectangle) for patch in axes.patches)]


def test_bars_are_the_rows(numbers: pd.DataFrame) -> None:
    """The heights drawn at each uplink are the mean seconds of device, link and server, stacked to the total."""
    panels = bars_axes(latency_bars.draw(numbers, PARTS, ABOUT))
    uplinks = list(dict.fromkeys(numbers["channel"].dropna()))
    assert len(panels) == len(uplinks) == 3
    for axes, uplink in zip(panels, uplinks, strict=True):
        rows = numbers[numbers["channel"] == uplink]
        heights = np.array([patch.get_height() for patch in axes.patches]).reshape(-1, 3)
        assert heights == pytest.approx(rows[["device_mean_s", "link_mean_s", "server_mean_s"]].to_numpy(float))
        tops = [patch.get_y() + patch.get_height() for patch in axes.patches][2::3]
        assert tops == pytest.approx(rows["total_mean_s"].tolist())


@pytest.mark.slow
def test_what_was_not_timed_is_hatched(numbers: pd.DataFrame) -> None:
    """Only the estimated parts are hatched, and the legend says what the hatch means; recorded ones are plain."""
    figure = latency_bars.draw(numbers, PARTS, ABOUT)
    rows = numbers[numbers["channel"] == "25 KB/s"].reset_index(drop=True)
    hatched = np.array([bool(patch.get_hatch()) for patch in bars_axes(figure)[0].patches]).reshape(-1, 3)
    expected = rows["pipeline"].eq("server_only").to_numpy()
    assert (hatched[:, 2] == expected).all()
    assert not hatched[:, :2].any()
    assert "not measured" in [text.get_text() for text in figure.legends[0].get_texts()]
    recorded = latency_bars.draw(numbers.replace({"server_source": {"estimated": "recorded"}}), PARTS, ABOUT)
    assert not any(patch.get_hatch() for patch in bars_axes(recorded)[0].patches)


def test_what_does_not_reach_is_said(points: pd.DataFrame, numbers: pd.DataFrame) -> None:
    """A scheme without a point at equal score has no bar, but the words, in every panel and in the curves' legend."""
    words = [text.get_text() for text in texts(latency_bars.draw(numbers, PARTS, ABOUT))]
    assert words.count("does not reach") == 3
    curves = [text.get_text() for text in texts(rate_performance.draw(points, ABOUT))]
    assert "device_only\n(does not reach)\n(sends nothing)" in curves
    nothing = numbers[~numbers["shown"]]
    figure = latency_bars.draw(nothing, PARTS, ABOUT)
    assert "no scheme reaches the target" in [text.get_text() for text in texts(figure)]
    assert_readable(figure)


def test_a_bar_far_above_the_others_is_cut_and_numbered(numbers: pd.DataFrame) -> None:
    """The axis ends above the ordinary bars; the one that is cut has its value written."""
    panel = bars_axes(latency_bars.draw(numbers, PARTS, ABOUT))[0]
    slowest = numbers["total_mean_s"].max()
    assert panel.get_ylim()[1] < slowest
    assert f"{slowest:.2f}" in [text.get_text() for text in panel.texts]


@given(st.lists(st.tuples(st.floats(0.001, 100), st.floats(1, 2)), min_size=1, max_size=30))
def test_every_bar_has_room_for_its_interval_or_is_cut(bars: list[tuple[float, float]]) -> None:
    """The axis ends above each interval of the bars that it does not cut, and cuts none within thrice the median."""
    rows = pd.DataFrame({"total_mean_s": [s for s, _ in bars], "total_mean_high_s": [s * wide for s, wide in bars]})
    limit_s = latency_bars._limit_s(rows)
    whole = rows[rows["total_mean_s"] <= limit_s]
    assert (1.1 * whole["total_mean_high_s"] <= limit_s).all()
    assert (rows["total_mean_s"] <= 3 * rows["total_mean_s"].median()).sum() <= len(whole)


def test_curves_are_the_rows(points: pd.DataFrame) -> None:
    """Each scheme's curve goes through its points in KB, in its own look, and the ring is on the one selected."""
    figure = rate_performance.draw(points, ABOUT)
    assert_readable(figure)
    lines = {line.get_marker(): line for line in figure.axes[0].lines if line.get_fillstyle() == "full"}
    for pipeline in ("tofc", "jpeg", "webp"):
        rows = points[points["pipeline"] == pipeline]
        line = lines[style.look(pipeline).marker]
        assert line.get_color() == style.look(pipeline).colour
        assert np.asarray(line.get_xdata()) == pytest.approx(rows["payload_bytes"].to_numpy() / 1000)
        assert np.asarray(line.get_ydata()) == pytest.approx(rows["score"].to_numpy())
    rings = [line for line in figure.axes[0].lines if line.get_fillstyle() == "none" and len(line.get_xdata())]
    selected = points[points["selected"]]
    assert sorted(line.get_xdata()[0] for line in rings) == pytest.approx(sorted(selected["payload_bytes"] / 1000))


@pytest.mark.slow
def test_the_same_rows_give_the_same_files(points: pd.DataFrame, numbers: pd.DataFrame, tmp_path: Path) -> None:
    """PNG and SVG do not depend on when or how often they are drawn."""
    drawn = (
        ("curves", points, lambda rows: rate_performance.draw(rows, ABOUT)),
        ("bars", numbers, lambda rows: latency_bars.draw(rows, PARTS, ABOUT)),
    )
    for stem, rows, draw in drawn:
        first, again = (
            [file.read_bytes() for file in style.save(draw(rows), tmp_path / folder, stem)] for folder in "ab"
        )
        assert first == again


def test_every_scheme_has_a_look() -> None:
    """The paper's schemes differ in colour and in marker; any other name always gets the same look."""
    names = ["tofc", "jpeg", "webp", "hyperprior", "elic", "raw_features", "server_only", "device_only"]
    looks = [style.look(name) for name in names]
    assert len({look.colour for look in looks}) == len({look.marker for look in looks}) == len(names)
    code = "from harness.report.figures.style import look; print(look('my-codec'))"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert elsewhere == str(style.look("my-codec"))


def test_provenance_is_on_the_figure(made_up: Analysis, points: pd.DataFrame) -> None:
    """Title, stand-ins, machine, run, verdict, scenario and commit stand on the figure."""
    about = of(made_up, "a subtitle", ["A note"])
    written = " ".join(text.get_text() for text in texts(rate_performance.draw(points, about)))
    manifest = made_up.manifest
    for fact in (
        "RealWorldQA at low uplink rates: a subtitle", "stand-ins: StreetsQA for RealWorldQA", "A note",
        "a processor, 2 cores", "tonight, INVALID", manifest.scenario_hash, manifest.commits,
    ):  # fmt: skip
        assert fact in written


@pytest.mark.slow
def test_draws_all_of_a_run_and_of_a_folder(made_up: Analysis, tmp_path: Path) -> None:
    """A run's folder, or a folder above it, gives two figures as PNG and SVG and the table; an empty one is refused."""
    files = draw_all(made_up.record.folder)
    names = {
        "rate_performance.png",
        "rate_performance.svg",
        "latency_bars.png",
        "latency_bars.svg",
        "table.csv",
        "table.md",
        "comparison.md",
        "categories.csv",
        "first.csv",
        "equal_score.csv",
        "latency_at_equal_score.csv",
    }
    assert {file.name for file in files} == names
    assert all(file.stat().st_size > 0 and file.parent == made_up.record.folder / "figures" for file in files)
    assert files[0].read_bytes().startswith(b"\x89PNG")
    above = draw_all(made_up.record.folder.parent, tmp_path / "out")
    assert {file.parent for file in above} == {tmp_path / "out" / "tonight"}
    with pytest.raises(ResultsError, match="neither a complete run nor a folder of runs"):
        draw_all(tmp_path / "nowhere")
    (tmp_path / "taken").write_text("")
    with pytest.raises(ResultsError, match="cannot be written"):
        draw_all(made_up.record.folder, tmp_path / "taken")


@pytest.mark.slow
def test_results_do_not_wait_for_matplotlib() -> None:
    """Importing the results, which every run does, imports neither matplotlib nor torch."""
    code = "import sys, harness.report.table as _; print({'matplotlib', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_waiting_is_stacked_where_it_is(tmp_path: Path) -> None:
    """A run in which something waits has a part more in every bar, in a colour of its own, and the sum is the total."""
    run = Analysis(make(tmp_path / "run", wait_s=0.05))
    panel = bars_axes(latency_bars.draw(run.numbers, run.parts, ABOUT))[0]
    heights = np.array([patch.get_height() for patch in panel.patches]).reshape(-1, 4)
    rows = run.numbers[run.numbers["channel"] == "25 KB/s"]
    wanted = rows[["device_mean_s", "link_mean_s", "wait_mean_s", "server_mean_s"]].to_numpy(float)
    assert heights == pytest.approx(wanted)
    assert heights.sum(axis=1) == pytest.approx(rows["total_mean_s"].tolist())
    assert len(set(style.PARTS.values())) == 4


@pytest.mark.slow
def test_a_run_in_which_nothing_reaches_is_drawn(tmp_path: Path) -> None:
    """All files are there, and the figure of latencies says why it has no bars."""
    selection = {"reference": "server_only", "target": 1.3, "margin": 0.0, "confidence": 0.95, "resamples": 100}
    run = make(tmp_path / "run", selection=selection)
    assert len(draw_all(run.folder)) == 11
    found = Analysis(run)
    words = [text.get_text() for text in texts(latency_bars.draw(found.numbers, found.parts, ABOUT))]
    assert "no scheme reaches the target" in words


def test_what_has_no_times_is_said_in_the_bars_place(numbers: pd.DataFrame) -> None:
    """A scheme whose point was not replayed, and one none of whose requests were answered, have words for a bar."""
    jpeg, webp = numbers["pipeline"] == "jpeg", numbers["pipeline"] == "webp"
    times = [name for name in numbers if name.endswith("_s")]
    changed = numbers.copy()
    changed.loc[webp, "total_done"] = 0
    changed.loc[webp, times] = np.nan
    changed = changed[~jpeg | (changed["channel"] == "25 KB/s")]
    changed.loc[changed["pipeline"] == "jpeg", ["replay", "channel", "users", "requests", *times]] = None
    figure = latency_bars.draw(changed, PARTS, ABOUT)
    words = [text.get_text() for text in texts(figure)]
    assert words.count("not replayed") == 3
    assert words.count("none answered") == 3
    assert_readable(figure)
