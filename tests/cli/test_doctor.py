"""``harness doctor`` lists what is installed, what is missing and how to get it."""

import dataclasses
from pathlib import Path

import pytest
from safetensors import safe_open

from harness import catalog, doctor
from harness.doctor import HalfNeeds, examine
from harness.models import files
from harness.scenario.load import load

SCENARIOS = Path(__file__).parents[2] / "scenarios"


@pytest.mark.slow
def test_a_scenario_that_can_run_has_status_0(harness) -> None:
    """Each half of each scheme, with the parts that it needs; a device half of JPEG needs none."""
    status, out, _ = harness("doctor", SCENARIOS / "smoke.yaml")
    assert status == 0
    assert "jpeg at quality=5,merge_to=0.044, device half: runs (no model)" in out
    assert "tofc at codec=lambda-0.3,merge_to=0.044, device half: runs (tower of mini-onevision: " in out
    assert out.endswith("smoke: it can run here, both halves of every scheme\n")


@pytest.mark.slow
def test_what_is_missing_is_named_with_how_to_get_it(harness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Benchmark and weights at once, each with its command; the status is 1."""
    monkeypatch.setenv("LMUData", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    status, out, err = harness("doctor", SCENARIOS / "realworldqa_lowrate.yaml", "--no-stand-in")
    assert (status, err) == (1, "")
    assert "'harness data get RealWorldQA'" in out
    assert "'harness weights get llava-onevision-7b'" in out
    status, out, _ = harness("doctor", SCENARIOS / "realworldqa_lowrate.yaml")
    assert status == 0
    assert "note: StreetsQA runs instead of RealWorldQA" in out


def test_a_scenario_of_estimates_can_run_anywhere(harness) -> None:
    """Neither its models nor its benchmarks are required."""
    status, out, _ = harness("doctor", SCENARIOS / "paper_projection.yaml")
    assert status == 0
    assert out.endswith("paper_projection: it can run here; its stages are estimated, and no model is loaded\n")


def test_weights_are_counted_once_each() -> None:
    """Together, the parts of a bundled checkpoint have all the weights of its file."""
    folder = catalog.ZOO / "mini-onevision"
    with safe_open(folder / "model.safetensors", framework="np") as opened:
        wanted = sum(opened.get_tensor(name).size for name in opened.keys())  # noqa: SIM118
    assert sum(files.elements(folder, part) for part in files.PARTS) == wanted


@pytest.mark.slow
def test_a_half_that_does_not_fit_does_not_run(monkeypatch: pytest.MonkeyPatch, harness) -> None:
    """A machine whose memory holds the tower and not the language model runs the device halves alone."""
    found = examine(load(SCENARIOS / "smoke.yaml"))
    tower = max(half.weight_bytes for half in found.halves if half.side == "device")
    small = dataclasses.replace(found, memory_bytes=tower)
    monkeypatch.setattr(doctor, "examine", lambda *_, **__: small)
    status, out, _ = harness("doctor", SCENARIOS / "smoke.yaml")
    assert status == 1
    assert "server half: does not fit into" in out
    assert out.endswith("smoke: only its device halves can run here\n")


def test_a_half_that_cannot_be_made_says_why() -> None:
    """Whatever its size."""
    half = HalfNeeds(pipeline="tofc", point="-", side="device", parts=(), weight_bytes=0, refused="its codec is absent")
    assert not half.fits(1 << 60)


@pytest.mark.parametrize(
    ("card", "notes"),
    [
        ({"l4t": None, "power_mode": "balanced"}, []),
        ({"l4t": None, "system": "Linux 5.15.148-tegra"}, ["the kernel is a Jetson's, and /etc/nv_tegra_release"]),
        ({"l4t": "39.2", "power_mode": "MAXN", "jetson_clocks": True}, []),
        ({"l4t": "39.2", "power_mode": "15W", "jetson_clocks": True}, ["the power mode is 15W"]),
        ({"l4t": "39.2", "power_mode": "MAXN", "jetson_clocks": False}, ["clocks vary; 'sudo jetson_clocks'"]),
        ({"l4t": "39.2", "power_mode": None, "jetson_clocks": None}, ["the power mode is unknown"]),
    ],
)
def test_a_jetson_that_is_slowed_down_is_reported(card: dict[str, object], notes: list[str]) -> None:
    """Its mode and its clocks, with the commands that set them; other machines have neither."""
    found = examine(card={"name": "a board", "memory_gib": 64, **card}).notes
    assert [line[: len(note)] for line, note in zip(found, notes, strict=True)] == notes


@pytest.mark.parametrize(
    ("capability", "known", "noted"),
    [
        ((8, 9), ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"], False),
        ((8, 9), ["sm_75", "sm_90"], True),
        ((8, 0), ["sm_86"], True),
        ((8, 9), ["sm_87"], True),
        ((8, 7), ["sm_80", "sm_90", "sm_110"], True),
        ((8, 7), ["sm_87"], False),
    ],
)
def test_a_gpu_that_runs_code_of_its_generation_is_not_noted(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], known: list[str], noted: bool
) -> None:
    """An RTX 4090 runs that for sm_80 and sm_86; a Jetson's GPU runs only its own."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: known)
    found = examine(card={"name": "a board", "memory_gib": 64}).notes
    assert any("no code of its own" in note for note in found) == noted
