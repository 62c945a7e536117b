"""A run of estimates: rows like any run's, labelled, and sums that are the paper's."""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.compute as pc
import pytest
import yaml
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from rich.console import Console

from harness.analysis import Analysis
from harness.errors import ResultsError
from harness.estimates.estimate import Estimated
from harness.projection import REASON, Projected, Projection, _totals, run
from harness.records import Side
from harness.report import page, sections, table
from harness.report.figures import gallery, resources, style
from harness.report.pack import numbers_tex
from harness.runs.store import Run
from harness.scenario.load import as_given, as_written, load, scenario_hash
from harness.scenario.replay import ConstantUplink, Replay
from tests.made_up_run import make

SCENARIOS = Path(__file__).parents[2] / "scenarios"

SMALL: dict[str, Any] = {
    "name": "small",
    "title": "A projection in miniature",
    "benchmark": "StreetsQA",
    "backbone": "mini-onevision",
    "pipelines": [
        {"scheme": "server_only"},
        {"scheme": "tofc", "points": [{"codec": "published", "merge_to": 0.1}]},
        {"scheme": "jpeg", "points": [{"quality": 10, "merge_to": 0.1}]},
        {"scheme": "device_only", "points": [{"merge_to": 0.1}]},
    ],
    "replay": {"uplinks": [{"kind": "constant", "rate": "10 KB/s"}, {"kind": "constant", "rate": "1 MB/s"}]},
    "estimate": {
        "device": "agx-orin",
        "server": "rtx-4090",
        "picture": {"width": 200, "height": 130, "file": "50 kB"},
        "text_tokens": 20,
        "answer_tokens": 2,
        "payloads": {
            "tofc": {"size": "1000 B", "says": "made up"},
            "jpeg": {"times": 2.5, "of": "tofc", "says": "made up"},
            "server_only": {"size": "50 kB", "says": "made up"},
        },
        "claims": [
            {"of": "tofc", "over": "server_only", "high": 0.5, "says": "made up"},
            {"of": "server_only", "high": 0.001, "says": "made up"},
        ],
    },
}


def write(folder: Path, **changes: Any) -> Path:
    """The scenario's file with a part of its estimate changed."""
    document = copy.deepcopy(SMALL)
    document["estimate"] |= changes
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


class _Silent:
    """A reporter that records its messages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)

    def phase(self, name: str, total: int, done: int) -> None:
        pass

    def advance(self) -> None:
        pass


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Projection, Path]:
    """A projection, made twice over, and its run's folder."""
    folder = tmp_path_factory.mktemp("projected")
    scenario = load(write(folder))
    found = run(scenario, folder / "small", reporter=_Silent())
    again = run(scenario, folder / "small", reporter=_Silent())
    assert again.totals == found.totals
    return found, folder / "small"


@pytest.mark.slow
def test_a_projection_is_a_labelled_run(ran: tuple[Projection, Path]) -> None:
    """All stages are estimated, on the machines of the sheets; it is INVALID, and claims no score."""
    analysis = Analysis.read(ran[1])
    stages = analysis.record.stages
    assert pc.unique(stages["source"]).to_pylist() == ["estimated"]
    assert set(zip(stages["side"].to_pylist(), stages["machine"].to_pylist(), strict=True)) == {
        ("device", "agx-orin"),
        ("server", "rtx-4090"),
    }
    assert not analysis.scored
    assert REASON in analysis.reasons


@pytest.mark.slow
def test_a_page_and_macros_of_it_call_nothing_measured(ran: tuple[Projection, Path]) -> None:
    """Payloads are reported or derived, times estimated; tokens and scores, which are unknown, are absent."""
    found = Analysis.read(ran[1])
    text = page.render([found], figures=[])
    assert "Payload bytes are reported or derived, and no question was answered. Stage times are estimated" in text
    assert not any(words in text for words in (">measured<", "are measured"))
    macros = numbers_tex(found)
    assert r"harness:tofc/payload_bytes\endcsname{1000}  % reported or derived" in macros
    assert not any(word in macros for word in ("% measured", "/score", "visual_tokens"))


@pytest.mark.slow
def test_its_table_speaks_of_no_timing(ran: tuple[Projection, Path]) -> None:
    """No interval, session or number of pictures, of which estimates have none, and no column of intervals."""
    found = Analysis.read(ran[1])
    console = Console(width=120, record=True)
    console.print(table.table(found))
    text = console.export_text()
    assert "times: mean seconds, estimated, so without intervals over pictures\n" in text
    assert not any(words in text for words in ("±", "session", "pictures give", "picture gives", "% interval"))
    assert (found.session, found.timing_warnings) == ("", ())


@pytest.mark.slow
def test_every_bar_of_it_is_hatched(ran: tuple[Projection, Path]) -> None:
    """Stages as estimated, links as reported, and the legend and the footer say so."""
    figure, numbers = gallery.chart("fig8").draw(Analysis.read(ran[1]), style.WIDTHS_IN["page"])
    assert set(numbers["link_source"]) == {"reported"}
    drawn = [bar for axes in figure.axes for bar in axes.patches if isinstance(bar, Rectangle) and bar.get_width() > 0]
    assert drawn
    assert all(bar.get_hatch() for bar in drawn)
    legend = {text.get_text() for row in figure.legends for text in row.get_texts()}
    assert {"estimated", "reported"} <= legend
    words = " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")
    assert "Estimated for agx-orin and rtx-4090" in words
    assert "Timed on" not in words


@pytest.mark.slow
def test_the_command_ends_with_tables_and_figures(harness: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """The stages' errors, the payloads' sources and the claims are printed, the figures drawn."""
    status, out, err = harness("run", write(tmp_path), "--results", tmp_path / "runs")
    assert status == 0, err
    words = " ".join(out.split())
    assert REASON in words
    assert "Estimated seconds on agx-orin and rtx-4090" in words
    assert "- tofc: 1,000 B; made up" in words
    assert "of 4 claims agree with the estimates" in words
    figures = {path.name for path in (tmp_path / "runs" / "small" / "figures").iterdir()}
    assert {"fig8.png", "projection.csv", "claims.csv"} <= figures


@pytest.mark.slow
def test_its_latencies_are_stages_and_bits_over_the_rate(ran: tuple[Projection, Path]) -> None:
    """T = T_device + 8 bytes / rate + T_server, with the payloads as given; device_only has no link."""
    numbers = Analysis.read(ran[1]).numbers.set_index(["pipeline", "channel"])
    for pipeline, n_bytes in {"tofc": 1000, "jpeg": 2500, "server_only": 50_000, "device_only": 0}.items():
        for channel, rate in {"10 KB/s": 10e3, "1 MB/s": 1e6}.items():
            row: Any = numbers.loc[(pipeline, channel)]
            assert row["link_mean_s"] == pytest.approx(n_bytes / rate)
            assert row["total_mean_s"] == pytest.approx(
                row["device_mean_s"] + row["link_mean_s"] + row["server_mean_s"]
            )


@pytest.mark.parametrize(
    ("system", "wait_s"),
    [
        ({}, 0.0),
        ({"users": [4], "sharing": "processor"}, 0.0),
        ({"users": [9], "sharing": "fifo", "arrivals": {"kind": "poisson", "rate": "9 /s"}}, 0.0),
        ({"users": [4], "batching": {"max_batch": 4, "window": "1 s", "marginal": 0.5}}, 1.0),
    ],
)
def test_a_total_is_of_a_request_that_meets_no_other(system: dict[str, Any], wait_s: float) -> None:
    """Whatever the system's users do: its stages, 8 bytes / rate, and the window of a batch that is not filled."""
    of_side: dict[Side, float] = {"device": 0.1, "server": 0.2}
    stages = [
        Estimated(side=side, stage="stage", operations=0.0, n_bytes=0.0, seconds=seconds, low_s=seconds, high_s=seconds,
                  bound="bytes", how="its own")
        for side, seconds in of_side.items()
    ]  # fmt: skip
    point = SimpleNamespace(label="-")
    projected = [Projected(pipeline="tofc", point=point, payload_bytes=1000, stages=stages)]
    replay = Replay.model_validate({"uplinks": [{"kind": "constant", "rate": "10 KB/s"}], **system})
    scenario: Any = SimpleNamespace(replay=replay)
    (found,) = _totals(scenario, projected)
    assert (found.device_s, found.link_s, found.wait_s, found.server_s) == pytest.approx((0.1, 0.1, wait_s, 0.2))
    assert found.seconds == pytest.approx(0.4 + wait_s)


@pytest.mark.slow
def test_claims_are_printed_beside_the_estimates(ran: tuple[Projection, Path]) -> None:
    """A claim that holds is *yes*, one that cannot hold is *no*, over each uplink."""
    verdicts = [(verdict.claim.of, verdict.channel, verdict.agrees) for verdict in ran[0].verdicts()]
    assert verdicts[0] == ("tofc", "10 KB/s", "yes")
    assert verdicts[2:] == [("server_only", "10 KB/s", "no"), ("server_only", "1 MB/s", "no")]


def test_it_takes_no_options_of_measuring(harness: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """They are refused in one sentence."""
    path = write(tmp_path)
    status, _, err = harness("run", path, "--server", "http://127.0.0.1:1")
    assert status == 2
    assert "has an 'estimate:' section and measures nothing; drop --server" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"device": "agx-orion"}, "agx-orion"),
        ({"payloads": {"tofc": {"size": "1 kB", "says": "x"}}}, "server_only has stages on the server and no payload"),
        ({"payloads": {"tofu": {"size": "1 kB", "says": "x"}}}, "tofu"),
        ({"payloads": {"tofc": {"times": 2, "of": "jpeg", "says": "x"}}}, "names no payload with a size of its own"),
        ({"payloads": {"tofc": {"size": "1 kB", "times": 2, "says": "x"}}}, "a payload is given as a 'size'"),
        ({"claims": [{"of": "tofc", "says": "x"}]}, "a claim has a 'low', a 'high' or both"),
        ({"claims": [{"of": "tofc", "low": 2, "high": 1, "says": "x"}]}, "low: 2 is above high: 1"),
    ],
)
def test_a_mistake_is_one_sentence(
    changes: dict[str, Any], sentence: str, harness: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """It names what is wrong, with status 2, and writes nothing."""
    status, _, err = harness("run", write(tmp_path, **changes), "--results", tmp_path / "runs")
    assert status == 2
    assert sentence in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_run_that_was_measured_is_not_replaced(tmp_path: Path) -> None:
    """A scenario of its name that gets an ``estimate:`` section does not touch its rows; nor does another's."""
    for name, sentence in (("small", "holds a run that was measured"), ("other", "holds a run of another scenario")):
        before = make(tmp_path / name, name=name)
        with pytest.raises(ResultsError, match=rf"{sentence}; choose another --name"):
            run(load(write(tmp_path)), tmp_path / name, reporter=_Silent())
        assert Run.read(tmp_path / name).stages.equals(before.stages)


def test_the_section_changes_no_other_scenarios_hash(tmp_path: Path) -> None:
    """A scenario without it has the hash that it had before the section existed; with it, another."""
    document = {name: part for name, part in SMALL.items() if name != "estimate"}
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump(document, sort_keys=False))
    assert scenario_hash(load(plain)) != scenario_hash(load(write(tmp_path)))
    assert "estimate" not in as_given(load(plain))


@pytest.mark.parametrize("name", ["jpeg_s", "jpeg_px"])
def test_a_name_that_ends_like_a_quantity_is_written_unchanged(tmp_path: Path, name: str) -> None:
    """A pipeline's name is a key among the payloads; written and loaded again it is the same scenario."""
    document = copy.deepcopy(SMALL)
    document["pipelines"][2]["name"] = name
    document["estimate"]["payloads"][name] = document["estimate"]["payloads"].pop("jpeg")
    (tmp_path / "named.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    scenario = load(tmp_path / "named.yaml")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(as_written(as_given(scenario))))
    assert scenario_hash(load(tmp_path / "again.yaml")) == scenario_hash(scenario)


def test_the_papers_projection_names_its_sources() -> None:
    """Every payload and claim has its source, and the inferred rate is labelled."""
    scenario = load(SCENARIOS / "paper_projection.yaml")
    assert scenario.estimate is not None
    assert all(payload.says for payload in scenario.estimate.payloads.values())
    assert [uplink.label for uplink in scenario.replay.uplinks][-1] == "492 KB/s (inferred)"
    (*_, inferred) = scenario.replay.uplinks
    assert isinstance(inferred, ConstantUplink)
    assert inferred.rate_bps == pytest.approx(8 * 886_000 / 1.8, rel=1e-3)


@pytest.mark.slow
def test_its_operations_are_called_estimated(ran: tuple[Projection, Path]) -> None:
    """The table says so, and each filled bar of the figure is hatched."""
    found = Analysis.read(ran[1])
    assert found.resources_source == "estimated"
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(sections.resources_table(found))
    words = console.export_text()
    assert "estimated on agx-orin; rtx-4090" in words
    assert "measured on" not in words
    figure, _ = resources.draw(found, style.WIDTHS_IN["page"])
    bars = [bar for axes in figure.axes for bar in axes.patches if isinstance(bar, Rectangle) and bar.get_width() > 0]
    filled = [bar for bar in bars if bar.get_fill() and to_rgba(bar.get_facecolor())[3]]
    assert filled
    assert all(bar.get_hatch() for bar in filled)
