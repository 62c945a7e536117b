"""A run as an archive: its content, and how a reviewer uses it."""

import re
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from harness.analysis import Analysis
from harness.channel.recording import RateRecording, save
from harness.derived import replay
from harness.errors import ResultsError, ScenarioError
from harness.report.figures import gallery
from harness.report.pack import numbers_tex, pack
from harness.runs import provenance
from harness.runs.own_code import of_own_code
from harness.scenario.load import as_given, load, scenario_hash
from harness.stock import missing
from tests.made_up_run import make
from tests.silent import Silent

SCENARIO = """
name: made-up
title: A made-up run
benchmark: StreetsQA
backbone: mini-onevision
pipelines:
  - {scheme: server_only}
  - {scheme: jpeg, points: [{quality: 20}]}
measure: {warmup: 2, repeats: 3}
selection: {target: 0.92, margin: 0.04, resamples: 500}
replay:
  uplinks:
    - {kind: constant, rate: 25 KB/s}
    - {kind: trace, path: links/one.parquet}
"""
ONE_KILOBYTE = b"0\n1\n2\n3\n"
STAGES = "stage,seconds\nvision_encode,0.1\nprefill,0.2\n"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and the file of its scenario, which names a recorded link."""
    folder = tmp_path_factory.mktemp("study")
    file = folder / "made-up.yaml"
    file.write_text(SCENARIO)
    (folder / "links").mkdir()
    (folder / "links" / "one.parquet").write_bytes(ONE_KILOBYTE)
    make(folder / "run", **as_given(load(file)))
    return folder / "run", file


@pytest.mark.slow
def test_an_archive_is_read_again_and_shows_the_same_numbers(packed: tuple[Path, Path], tmp_path: Path) -> None:
    """Rows, manifest, scenario with its links, figures, versions and commands."""
    run, file = packed
    pack(run, file, load(file), (), tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert Analysis.read(folder / "run").numbers.equals(Analysis.read(run).numbers)
    assert as_given(load(folder / "scenarios" / "made-up.yaml")) == as_given(load(file))
    assert (folder / "scenarios" / "links" / "one.parquet").read_bytes() == ONE_KILOBYTE
    assert "harness run scenarios/made-up.yaml" in (folder / "README.md").read_text()
    versions = (folder / "requirements.txt").read_text().splitlines()
    assert any(re.match(r"numpy==\d", line) for line in versions)
    # What pip refuses: Python itself, and a local build's version.
    assert not [line for line in versions if re.match(r"python==|[^#]*\+", line)]
    assert (folder / "figures" / "table.csv").exists()


OTHER = """
name: wires
title: Over another link
benchmark: StreetsQA
backbone: mini-onevision
pipelines: [{scheme: server_only}]
replay:
  uplinks:
    - {kind: constant, rate: 1 MB/s}
    - {kind: trace, path: links/two.parquet}
profile: [{path: times/orin.csv, pipeline: server_only, side: server, machine: AGX Orin, samples: any}]
"""


@pytest.mark.slow
def test_a_replayed_run_is_packed_with_its_whole_scenario(
    packed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its archive is read, checked and replayed where nothing else is: with links and recorded stage times."""
    monkeypatch.setattr(gallery, "names", lambda _: [])
    study = tmp_path / "study"
    for name, text in (("times/orin.csv", STAGES), ("wires.yaml", OTHER)):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text(text)
    (study / "links").mkdir()
    link = RateRecording(at_s=np.array([0.0, 5.0, 9.0]), rate_bps=np.array([1e6, 3e6]), source="made up")
    save(link, study / "links" / "two.parquet")
    run, file = study / "over", study / "wires.yaml"
    replay(packed[0], load(file), run, reporter=Silent(), command=(), fresh=False)
    pack(run, file, load(file), (), tmp_path / "a.tar.gz")
    (study / "links" / "two.parquet").write_bytes(ONE_KILOBYTE)
    with pytest.raises(ResultsError, match=r"link two\.parquet is not the one that the run was made with"):
        pack(run, file, load(file), (), tmp_path / "b.tar.gz")
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        archive.extractall(tmp_path / "there", filter="data")
    shutil.rmtree(study)
    (folder,) = (tmp_path / "there").iterdir()
    there, scenario = Analysis.read(folder / "run"), load(folder / "scenarios" / "wires.yaml")
    assert scenario_hash(scenario) == there.manifest.scenario_hash
    assert [spec.scheme for spec in scenario.pipelines] == ["server_only", "jpeg"]
    assert missing(scenario, allow_stand_ins=True) == []
    replay(folder / "run", scenario, tmp_path / "again", reporter=Silent(), command=(), fresh=False)
    again = Analysis.read(tmp_path / "again").record.requests
    assert again.equals(there.record.requests)
    other = yaml.safe_load(OTHER.replace("1 MB/s", "2 MB/s"))
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(ResultsError, match="of a replayed run the one that it was replayed with"):
        pack(folder / "run", tmp_path / "other.yaml", load(tmp_path / "other.yaml"), (), tmp_path / "b.tar.gz")
    assert not (tmp_path / "b.tar.gz").exists()


@pytest.mark.slow
def test_another_scenario_is_refused(packed: tuple[Path, Path], tmp_path: Path) -> None:
    """With both hashes, and nothing is written."""
    run, file = packed
    with pytest.raises(ResultsError, match="was made with a scenario of hash"):
        pack(run, file, load(file, ["measure.repeats=4"]), (), tmp_path / "a.tar.gz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_replaced_values_are_in_the_archives_scenario(
    packed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its replay is that of the run, which the command line cannot say."""
    monkeypatch.setattr(gallery, "names", lambda _: [])
    _, file = packed
    changes = ["replay.users=[1, 3]"]
    make(tmp_path / "run", **as_given(load(file, changes)))
    pack(tmp_path / "run", file, load(file, changes), tuple(changes), tmp_path / "a.tar.gz")
    folder = _unpacked(tmp_path)
    assert scenario_hash(load(folder / "scenarios" / "made-up.yaml")) == scenario_hash(load(file, changes))
    assert "    harness run scenarios/made-up.yaml\n" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_code_of_ones_own_is_in_the_archive_and_pictures_are_not(
    packed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that it imports; the README says where it is found, and what is needed besides."""
    monkeypatch.setattr(gallery, "names", lambda _: [])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "packed_steps.py").write_text("STEP = 1\n")
    (tmp_path / "packed_codec.py").write_text("import packed_steps\nfrom harness.schemes.fake import Fake as Mine\n")
    file = tmp_path / "mine.yaml"
    text = SCENARIO.replace("  - {scheme: jpeg, points: [{quality: 20}]}", "  - {scheme: 'packed_codec:Mine'}")
    file.write_text(text.replace("benchmark: StreetsQA", "benchmark: shop/").replace("links/one.parquet", "one.csv"))
    (tmp_path / "one.csv").write_bytes(ONE_KILOBYTE)
    wanted = load(file)
    record = make(tmp_path / "run", **as_given(wanted))
    digests = {**record.manifest.digests, **of_own_code(["packed_codec"]), "package wavelets": "1.0"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build" / "mine").mkdir(parents=True)
    named = {"codec build/mine": "0" * 16, "parameters of tofc at codec=run": "0" * 16}
    points = {**record.manifest.points, "tofc": {"a": {"codec": "build/mine"}, "b": {"codec": "run"}}}
    manifest = record.manifest.model_copy(update={"digests": digests | named, "points": points})
    (tmp_path / "run" / "manifest.json").write_text(provenance.to_json(manifest))
    pack(tmp_path / "run", file, wanted, (), tmp_path / "a.tar.gz")
    folder = _unpacked(tmp_path)
    assert (folder / "code" / "packed_steps.py").read_text() == "STEP = 1\n"
    readme = (folder / "README.md").read_text()
    assert "    PYTHONPATH=code harness run scenarios/mine.yaml\n" in readme
    assert "PYTHONPATH=code harness check scenarios/" in readme
    lacking = "the benchmark `shop/`, in the folder `scenarios`; `build/mine`, in this folder; the package wavelets 1.0"
    assert f"to measure again: {lacking}.\n" in readme
    (tmp_path / "packed_steps.py").write_text("STEP = 2\n")
    with pytest.raises(ResultsError, match="code of packed_steps is not the one that the run was made with"):
        pack(tmp_path / "run", file, wanted, (), tmp_path / "b.tar.gz")
    sys.modules.pop("packed_codec"), sys.modules.pop("packed_steps")


def _unpacked(folder: Path) -> Path:
    with tarfile.open(folder / "a.tar.gz") as archive:
        archive.extractall(folder / "there", filter="data")
    (found,) = (folder / "there").iterdir()
    return found


@pytest.mark.slow
def test_a_link_from_elsewhere_is_refused(tmp_path: Path) -> None:
    """An archive that could not be rerun is not made."""
    (tmp_path / "study").mkdir()
    (tmp_path / "one.parquet").write_bytes(ONE_KILOBYTE)
    file = tmp_path / "study" / "made-up.yaml"
    file.write_text(SCENARIO.replace("links/one.parquet", "../one.parquet"))
    make(tmp_path / "run", **as_given(load(file)))
    with pytest.raises(ScenarioError, match=r"one\.parquet is outside of the scenario's folder"):
        pack(tmp_path / "run", file, load(file), (), tmp_path / "a.tar.gz")


@pytest.mark.slow
def test_every_number_of_the_table_is_a_macro(packed: tuple[Path, Path]) -> None:
    """Read back, each is the table's to six digits, with any interval, under a unique name."""
    run = Analysis.read(packed[0])
    defined = re.findall(r"\\csname harness:(.+?)\\endcsname\{(.*?)\}", numbers_tex(run))
    macros = dict(defined)
    # A bare underscore would stop LaTeX in the text.
    assert macros["raw_features/point"] == r"merge\_to=0.044"
    assert len(macros) == len(defined)
    for row in run.numbers[run.numbers["shown"]].to_dict("records"):
        for column in ("total_mean", "device_p50"):
            place = f"{row['pipeline']}/{row['channel']}/{column}_s"
            for key, value in ((place, f"{column}_s"), (f"{place}/low", f"{column}_low_s")):
                wanted = row[value]
                assert (key in macros) == (wanted == wanted), key
                if key in macros:
                    assert float(macros[key]) == pytest.approx(wanted, rel=1e-5)
        assert float(macros[f"{row['pipeline']}/payload_bytes"]) == pytest.approx(row["payload_bytes"], rel=1e-5)
