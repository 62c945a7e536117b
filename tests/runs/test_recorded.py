"""Stage times recorded elsewhere: the allowed files, and the error for any other."""

from pathlib import Path

import pytest

from harness.errors import ScenarioError
from harness.profiling.logger import Recorder
from harness.runs.recorded import read
from harness.scenario.model import Recording

LABELS = ["levels=4", "levels=32"]
GOOD = "sample,repeat,stage,seconds\nq1,0,see,0.08\nq1,0,encode,0.01\nq1,1,see,0.09\nq1,1,encode,0.02\n"


def recording(path: Path, **changes: object) -> Recording:
    """The recording of a file."""
    given = {"path": path.name, "pipeline": "fake", "side": "device", "machine": "AGX Orin", **changes}
    return Recording.model_validate(given, context={"folder": path.parent})


def written(folder: Path, text: str) -> Path:
    """A CSV."""
    path = folder / "orin.csv"
    path.write_text(text)
    return path


def test_a_csv_is_read_request_by_request(tmp_path: Path) -> None:
    """Stages of a sample's repeats stay together, in the order of the file, at every point; repeats come in turn."""
    found = read(recording(written(tmp_path, GOOD)), LABELS)
    assert set(found) == {("fake", label, "device") for label in LABELS}
    of_point = found["fake", "levels=4", "device"]
    assert (of_point.machine, of_point.source) == ("AGX Orin", "recorded")
    assert of_point.stages("q1", 0, 7) == [("see", 0.08, None), ("encode", 0.01, None)]
    assert of_point.stages("q1", 3, 7) == [("see", 0.09, None), ("encode", 0.02, None)]
    with pytest.raises(ScenarioError, match=r"orin.csv: has no stages of sample 'q2', which this scenario times \(1 "):
        of_point.refuse_missing(["q1", "q2"])


def test_requests_without_samples_stand_for_any_in_turn(tmp_path: Path) -> None:
    """Without a column of samples a stage that comes again begins the next request; `samples: any` says the same."""
    found = read(recording(written(tmp_path, "stage,seconds,cpu_s\nsee,1,\nencode,2,1.5\nsee,3,\nencode,4,\n")), LABELS)
    of_point = found["fake", "levels=32", "device"]
    of_point.refuse_missing(["q9"])
    assert of_point.stages("q9", 0, 0) == [("see", 1.0, None), ("encode", 2.0, 1.5)]
    assert of_point.stages("q9", 0, 5) == [("see", 3.0, None), ("encode", 4.0, None)]
    any_sample = read(recording(written(tmp_path, GOOD), samples="any"), LABELS)["fake", "levels=4", "device"]
    assert any_sample.stages("q9", 0, 1) == [("see", 0.09, None), ("encode", 0.02, None)]
    # Sorted by stage, in another order of samples each time: a request's stages stay together.
    mixed = "sample,stage,seconds\nq1,see,1\nq2,see,2\nq2,encode,4\nq1,encode,3\n"
    any_sample = read(recording(written(tmp_path, mixed), samples="any"), LABELS)["fake", "levels=4", "device"]
    assert any_sample.stages("q9", 0, 0) == [("see", 1.0, None), ("encode", 3.0, None)]


def test_points_have_rows_of_their_own(tmp_path: Path) -> None:
    """A column of points divides the file; a profile of one point uses that point's rows."""
    text = "point,stage,seconds\nlevels=4,see,1\nlevels=32,see,2\n"
    found = read(recording(written(tmp_path, text)), LABELS)
    assert [found["fake", label, "device"].stages("q", 0, 0)[0][1] for label in LABELS] == [1.0, 2.0]
    assert list(read(recording(written(tmp_path, text), point="levels=32"), LABELS)) == [("fake", LABELS[1], "device")]


def test_a_file_of_the_stage_logger_is_a_profile(tmp_path: Path) -> None:
    """Its pipeline and point are used if there is one of each; its machine is in its rows."""
    recorder = Recorder(tmp_path / "own.parquet", machine="an engine's machine")
    for number in range(2):
        with recorder.request(f"question {number}", side="server") as request, request.stage("prefill"):
            pass
    path = recording(tmp_path / "own.parquet", side="server", machine=None)
    found = read(path, LABELS)["fake", "levels=4", "server"]
    assert found.machine == "an engine's machine"
    assert [stage for stage, _, _ in found.stages("question 1", 0, 0)] == ["prefill"]
    with pytest.raises(ScenarioError, match=r"own\.parquet: has no stages of the device"):
        read(recording(tmp_path / "own.parquet"), LABELS)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r":1: has no column 'stage'"),
        ("stage,second\nsee,1\n", r":1: unknown column 'second'; did you mean 'seconds'\? known: sample, repeat"),
        ("stage,stage,seconds\n", r":1: the column stage is given twice"),
        ("stage,seconds\n", r": has no row"),
        ("stage,seconds\nsee,1\nencode,-0.25\n", r":3: seconds is '-0.25'; it is seconds, from 0 to 86400"),
        ("stage,seconds\nsee,nan\n", r":2: seconds is 'nan'"),
        ("stage,seconds\nsee,1e9\n", r":2: seconds is '1e9'"),
        ("stage,seconds\nsee,fast\n", r":2: seconds is 'fast'"),
        ("stage,seconds\n,1\n", r":2: stage is empty"),
        ("stage,seconds\nsee,1,2\n", r":2: has 3 values; the header has 2 columns"),
        ('stage,seconds\n"see,1\n', r":2: is not CSV"),
        ("sample,stage,seconds\n,see,1\n", r":2: sample is empty"),
        ("repeat,stage,seconds\n-1,see,1\n", r":2: repeat is '-1'; it is a whole number from 0"),
        ("repeat,stage,seconds\n0,see,1\n0,see,2\n", r":3: the stage 'see' of repeat 0 is given twice"),
        ("stage,seconds\nsee,1\nencode,1\nsee,2\n", r": repeat 1 has no stage 'encode', which other requests have"),
        ("point,stage,seconds\nlevels=5,see,1\n", r":2: unknown point 'levels=5'; did you mean 'levels=4'"),
        ("point,stage,seconds\nlevels=4,see,1\n", r": has no row of the point levels=32"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    """The file, the line, the value and what would be right."""
    with pytest.raises(ScenarioError, match=r"orin\.csv" + sentence):
        read(recording(written(tmp_path, text)), LABELS)


def test_what_cannot_be_read_is_reported(tmp_path: Path) -> None:
    """A missing file; no run; a CSV whose machine is not known."""
    with pytest.raises(ScenarioError, match=r"orin\.csv: cannot be read"):
        read(recording(tmp_path / "orin.csv"), LABELS)
    with pytest.raises(ScenarioError, match=r"manifest\.json: no such file"):
        read(recording(tmp_path), LABELS)
    with pytest.raises(ScenarioError, match="does not say where it was recorded; give the profile a 'machine:'"):
        read(recording(written(tmp_path, GOOD), machine=None), LABELS)
