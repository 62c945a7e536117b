"""Halves measured apart, joined, are a run; a finished run replayed elsewhere is one too."""

import dataclasses
import random
import time
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest

from harness.analysis import Analysis
from harness.apart import PAYLOADS, measure_half
from harness.data.questions import samples
from harness.data.streetsqa import book
from harness.derived import join, replay
from harness.errors import BitstreamError, ResultsError, ScenarioError, SchemeError
from harness.models.contract import Models
from harness.records import Side
from harness.replay import sweep
from harness.runs.store import Record, Run
from harness.scenario.load import as_given, load, replay_from_given
from harness.schemes.contract import DeviceHalf
from harness.schemes.envelope import pack, unpack
from harness.schemes.fake import Fake, FakeAlone, FakePoint
from harness.study import run
from tests.edge import ends, fake_harness
from tests.silent import Silent

ROOT = Path(__file__).parents[2]
SILENT = Silent()


def halves(scenario: Path, folder: Path) -> tuple[Path, Path]:
    """Both halves of a scenario, measured one after the other."""
    device, server = folder / "device", folder / "server"
    measure_half(load(scenario), device, "device", reporter=SILENT)
    measure_half(load(scenario), server, "server", payloads=device, reporter=SILENT)
    return device, server


def joined(device: Path, server: Path, folder: Path) -> Record:
    """The run that two halves make."""
    join(device, server, folder, links=Path(), reporter=SILENT, fresh=False)
    return Run.read(folder)


@pytest.fixture(scope="module")
def alone(fake_scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The fakes' run in one process."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    run(load(fake_scenario), folder, reporter=SILENT)
    return Run.read(folder)


@pytest.fixture(scope="module")
def parted(fake_scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of both halves."""
    return halves(fake_scenario, tmp_path_factory.mktemp("parted"))


@pytest.mark.slow
def test_joined_halves_are_the_run_of_one_process(alone: Record, parted: tuple[Path, Path], tmp_path: Path) -> None:
    """All rows except times, including those of a scheme that sends nothing; only the unit differs."""
    found = joined(*parted, tmp_path / "alone")
    for kind in ("samples", "requests"):
        ours, theirs = (getattr(record, kind).to_pandas() for record in (found, alone))
        seconds = [column for column in ours.columns if column.endswith("_s")]
        pd.testing.assert_frame_equal(ours.drop(columns=seconds), theirs.drop(columns=seconds), obj=kind)
    for kind, own in (("stages", ["seconds", "cpu_s", "waited_s", "load", "start"]), ("outcomes", [])):
        ours, theirs = (
            getattr(record, kind).to_pandas().drop(columns=["unit", "run", *own]) for record in (found, alone)
        )
        pd.testing.assert_frame_equal(ours, theirs, obj=kind)
    stages = found.stages.to_pandas()
    assert stages.groupby("side")["start"].unique().map(list).to_dict() == {"device": [0], "server": [1]}
    # The load of this machine is not due to the joining.
    structural = ("never timed", "half", "answer", "machines", "warm-up")
    assert not [why for why in found.manifest.reasons if any(word in why for word in structural)]


@pytest.mark.slow
def test_a_half_is_not_a_run(parted: tuple[Path, Path], tmp_path: Path) -> None:
    """Reading it as a run, or one half as the other, is refused with a message that names the half."""
    device, server = parted
    with pytest.raises(ResultsError, match=r"is only the device half of a run; 'harness join'"):
        Analysis.read(device)
    with pytest.raises(ResultsError, match="is only the server half of a run; the device half is expected"):
        joined(server, device, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_device_half_killed_at_any_moment_is_completed(
    alone: Record, parted: tuple[Path, Path], fake_scenario: Path, tmp_path: Path
) -> None:
    """SIGKILL and the command repeated: the payloads are those of a half that was not killed."""
    moment, device = random.Random(3), tmp_path / "device"
    for _ in range(4):
        process = ends.FORKS.Process(target=_measure_device, args=(fake_scenario, device))
        process.start()
        while process.is_alive() and not (device / PAYLOADS).exists():
            time.sleep(0.005)
        process.join(moment.random() * 0.3)
        process.kill()
        process.join()
    measure_half(load(fake_scenario), device, "device", reporter=SILENT)
    found, wanted = (
        {path.name: path.read_bytes() for path in (folder / PAYLOADS).iterdir()} for folder in (device, parted[0])
    )
    assert found == wanted
    joined(device, parted[1], tmp_path / "run")


def _measure_device(scenario: Path, folder: Path) -> None:
    fake_harness.patch()
    measure_half(load(scenario), folder, "device", reporter=SILENT)


@pytest.mark.slow
def test_halves_of_two_scenarios_are_not_joined(parted: tuple[Path, Path], fake_scenario: Path, tmp_path: Path) -> None:
    """The difference is named, and no folder is made."""
    other = tmp_path / "other.yaml"
    other.write_text(fake_scenario.read_text().replace("levels: [4, 32]", "levels: [4, 33]"))
    device, server = halves(other, tmp_path)
    with pytest.raises(ResultsError, match=r"not halves of one run: their scenarios differ .*parameters of fake"):
        joined(parted[0], server, tmp_path / "run")
    with pytest.raises(ResultsError, match=r"was measured with another scenario, .*parameters of fake at lev"):
        measure_half(load(other), tmp_path / "again", "server", payloads=parted[0], reporter=SILENT)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "again").exists()
    # The same halves measured again agree: none of their rows is random.
    assert joined(device, server, tmp_path / "run").manifest.half is None


@pytest.mark.parametrize("half", ["device", "server"])
def test_a_half_is_not_timed_until_precise(fake_scenario: Path, tmp_path: Path, half: Side) -> None:
    """It would stop at a number of pictures of its own, and the requests of the two could not be joined."""
    precise = load(fake_scenario, ["measure={precision: 5 %}"])
    payloads = tmp_path / "device" if half == "server" else None
    with pytest.raises(ScenarioError, match=r"^fake: measure\.precision is 5 %, and a half .*timed_samples instead$"):
        measure_half(precise, tmp_path / "half", half, payloads=payloads, reporter=SILENT)
    assert not (tmp_path / "half").exists()


class Mixed(FakeAlone):
    """Answers the pictures of these places among three, and sends the others."""

    kind = "fake"
    answered: ClassVar[set[int]] = set()

    @classmethod
    def device_half(cls, models: Models, point: FakePoint) -> DeviceHalf:
        """One of the two halves, by the picture."""
        answers, sends = super().device_half(models, point), Fake.device_half(models, point)
        pages = [page.image_id for page in samples(book("test", 0)[:3], paired=False)]
        order = list(dict.fromkeys(pages))
        return lambda sample, clock: (answers if order.index(sample.image_id) in cls.answered else sends)(sample, clock)


@pytest.mark.parametrize("answered", [{0}, {2}])
def test_a_scheme_that_only_sometimes_sends_is_not_measured_in_halves(
    fake_scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: set[int]
) -> None:
    """Whether its first picture is answered or sent: one sentence, with the point and the sample."""
    scenario = tmp_path / "mixed.yaml"
    text = fake_scenario.read_text().replace("levels: [4, 32]", "levels: 4")
    scenario.write_text(text.replace("scheme: fake_alone, name: alone", f"scheme: '{__name__}:Mixed', name: mixed"))
    monkeypatch.setattr(Mixed, "answered", answered)
    with pytest.raises(SchemeError, match=r"^mixed at -, sample .*: the device half answers some pictures and sends a"):
        measure_half(load(scenario), tmp_path / "half", "device", reporter=SILENT)


@pytest.mark.slow
def test_a_payload_that_is_missing_or_was_replaced_is_found(fake_scenario: Path, tmp_path: Path) -> None:
    """A copy without it is refused by name; halves whose payloads differ are not joined."""
    device, server = halves(fake_scenario, tmp_path)
    first, second = sorted((device / PAYLOADS).iterdir())[:2]
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(ResultsError, match="the server half answered other payloads"):
        joined(device, server, tmp_path / "run")
    first.write_bytes(data[:-1])
    with pytest.raises(
        BitstreamError, match=rf"{first}: a payload of .* is cut or damaged; copy the folder of the devi"
    ):
        measure_half(load(fake_scenario), tmp_path / "again", "server", payloads=device, reporter=SILENT)
    first.unlink()
    with pytest.raises(ResultsError, match=rf"{first.name}: no such file; it is the payload of .* for sample "):
        measure_half(load(fake_scenario), tmp_path / "again", "server", payloads=device, reporter=SILENT)
    first.write_bytes(data)
    joined(device, server, tmp_path / "run")


@pytest.mark.slow
def test_payloads_made_anew_are_answered_anew(fake_scenario: Path, tmp_path: Path) -> None:
    """A device half that is measured again may send other bytes: no row of the earlier ones is in the joined run."""
    device, server = halves(fake_scenario, tmp_path)
    files = sorted((device / PAYLOADS).iterdir())
    by_size = [path for path in files if path.stat().st_size == files[0].stat().st_size]
    darkest = unpack(files[0].read_bytes(), "fake")
    dark = pack(dataclasses.replace(darkest, bodies=tuple(bytes(len(body)) for body in darkest.bodies)))
    for path in by_size:
        path.write_bytes(dark)
    measure_half(load(fake_scenario), server, "server", payloads=device, reporter=SILENT)
    found = joined(device, server, tmp_path / "run")
    sent = found.outcomes.to_pandas().query("payload_bytes > 0")
    assert set(sent["answer"]) == {"A", "No"}
    starts = found.stages.to_pandas().query("side == 'server'")["start"]
    assert set(starts) == {2}


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_replay_section_is_read_again_from_a_manifest(path: Path) -> None:
    """A manifest has the whole section: links, users, arrivals, to the bit."""
    scenario = load(path)
    again = replay_from_given(as_given(scenario), path.parent)
    assert again == scenario.replay
    assert again.files == scenario.replay.files


@pytest.mark.slow
def test_a_replayed_run_has_the_rows_of_a_sweep(alone: Record, fake_scenario: Path, tmp_path: Path) -> None:
    """Other uplinks, users and a deadline: the requests are those that ``sweep`` makes of the run, and are recorded."""
    other = tmp_path / "other.yaml"
    text = fake_scenario.read_text()
    assert "rate: 25 KB/s }]" in text
    other.write_text(
        text.replace("rate: 25 KB/s }]", "rate: 3 KB/s }]\n  users: [1, 3]\n  deadline: 20 ms").replace(
            "name: fake\ntitle", "name: slow\ntitle"
        )
    )
    wanted = load(other)
    replay(alone.folder, wanted, tmp_path / "slow", reporter=SILENT, command=(), fresh=False)
    found = Run.read(tmp_path / "slow")
    profiles = Analysis.read(alone.folder).profiles(None)
    frame = sweep(profiles, wanted.replay).to_pandas()
    keys = ["replay", "channel", "users", "seed", "pipeline", "point", "user", "submitted_s"]
    ours = found.requests.to_pandas().sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(ours, frame.sort_values(keys, ignore_index=True))
    assert set(found.stages["source"].to_pylist()) == {"recorded"}
    assert found.outcomes.drop_columns(["unit", "run"]) == alone.outcomes.drop_columns(["unit", "run"])
    assert found.manifest.scenario["name"] == "slow"
    assert found.manifest.scenario["selection"] == alone.manifest.scenario["selection"]
    assert Analysis.read(tmp_path / "slow").profiles(None)
    with pytest.raises(ResultsError, match="holds a complete run; choose another --name"):
        replay(alone.folder, wanted, tmp_path / "slow", reporter=SILENT, command=(), fresh=False)
    assert Analysis(found).bytes_source == "recorded"
    assert Analysis(alone).bytes_source == "measured"
    # A replay of a replay has the same numbers.
    replay(tmp_path / "slow", wanted, tmp_path / "again", reporter=SILENT, command=(), fresh=False)
    assert Run.read(tmp_path / "again").requests == found.requests


@pytest.mark.slow
def test_the_commands_make_a_run(harness, fake_scenario: Path, tmp_path: Path) -> None:
    """From two halves to a table, and to the table of a replay; a missing option is reported."""
    where = ("--results", tmp_path)
    assert harness("measure", fake_scenario, "--half", "server", *where)[0] == 2
    assert harness("measure", fake_scenario, "--half", "device", *where)[0] == 0
    status, out, _ = harness(
        "measure", fake_scenario, "--half", "server", "--payloads", tmp_path / "fake-device", *where
    )
    assert (status, "the server half is complete" in out) == (0, True)
    status, out, err = harness("join", tmp_path / "fake-device", tmp_path / "fake-server", *where)
    assert status == 0, err
    assert "run fake, " in out
    status, out, err = harness("replay", tmp_path / "fake", fake_scenario, "--name", "again", *where)
    assert status == 0, err
    assert "run again, " in out
    assert harness("show", tmp_path / "fake-device")[0] == 2
