"""The description of a machine, from trees with the output of other machines' kernels and tools."""

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pynvml
import pytest

from harness.profiling.machine import conditions, machine_name, this_machine
from harness.profiling.telemetry import Telemetry
from tests.fake_nvml import FakeGpu, driver

NO_LIBRARY = 12
"""NVML's code for a machine without the driver's library."""


def tree(root: Path, files: Mapping[str, object]) -> Path:
    """A machine's files under ``root``."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def arm_cpuinfo(*cores: tuple[int, int]) -> str:
    """``/proc/cpuinfo`` of 64-bit Arm: numbers, and no name of a model."""
    return "\n".join(
        f"processor\t: {n}\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd\nCPU implementer\t: {implementer:#04x}\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part:#05x}\nCPU revision\t: 1\n"
        for n, (implementer, part) in enumerate(cores)
    )


def processors(n: int, khz: int, **cpufreq: object) -> dict[str, object]:
    """The entries of sysfs for ``n`` processors with a core each."""
    files: dict[str, object] = {}
    for number in range(n):
        folder = f"sys/devices/system/cpu/cpu{number}"
        files[f"{folder}/topology/thread_siblings_list"] = number
        files[f"{folder}/cpufreq/cpuinfo_max_freq"] = khz
        files |= {f"{folder}/cpufreq/{name}": value for name, value in cpufreq.items()}
    return files


ORIN_GPU = FakeGpu("Orin (nvgpu)")
"""NVML starts on a Jetson and has the GPU's name, but not its memory, power or clocks."""

CARD = FakeGpu("NVIDIA GeForce RTX 4090", 25_757_220_864, 3105, 10501, 450_000, 0)


def orin(root: Path, **files: object) -> Path:
    """A Jetson AGX Orin of 64 GB with JetPack 6.2 in its mode MAXN."""
    tree(
        root,
        {
            "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\x00",
            "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\x00nvidia,p3701-0005\x00nvidia,tegra234\x00",
            "proc/device-tree/serial-number": "1420223021421\x00",
            "proc/cpuinfo": arm_cpuinfo(*[(0x41, 0xD42)] * 12),
            "proc/meminfo": "MemTotal:       64336464 kB\nMemFree:        1000 kB",
            "etc/machine-id": "0f5c2a1e9b8d4c6fa7e3d2c1b0a99887",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
            "# KERNEL_VARIANT: oot",
            "var/lib/dpkg/status": "Package: nvidia-jetpack-dev\nStatus: install ok installed\nVersion: 9\n\n"
            "Package: nvidia-jetpack\nStatus: install ok installed\nArchitecture: arm64\nVersion: 6.2+b77\n\n"
            "Package: zlib1g\nStatus: install ok installed\nVersion: 1",
            "usr/sbin/nvpmodel": '#!/bin/sh\n[ "$1" = -q ] && printf "NV Power Mode: MAXN\\n0\\n"',
            **processors(
                12, 2_201_600, scaling_min_freq=729_600, scaling_max_freq=2_201_600, scaling_governor="schedutil"
            ),
            "sys/class/devfreq/17000000.gpu/available_frequencies": "306000000 612000000 1300500000",
            "sys/class/devfreq/17000000.gpu/min_freq": 306_000_000,
            "sys/class/devfreq/17000000.gpu/max_freq": 1_300_500_000,
            "sys/class/devfreq/15480000.vic/max_freq": 729_600_000,
            **files,
        },
    )
    (root / "usr/sbin/nvpmodel").chmod(0o755)
    return root


def workstation(root: Path, **files: object) -> Path:
    """An x86-64 workstation with 16 cores of two threads."""
    cpus = processors(32, 5_752_000, scaling_cur_freq=3_100_000, scaling_governor="powersave")
    for number in range(32):
        cpus[f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"] = f"{number % 16},{number % 16 + 16}"
    entry = "vendor_id\t: AuthenticAMD\nmodel name\t: AMD Ryzen 9 7950X 16-Core Processor\ncpu MHz\t\t: 3000.000\n"
    return tree(
        root,
        {
            "proc/cpuinfo": "\n".join(f"processor\t: {n}\n{entry}" for n in range(32)),
            "proc/meminfo": "MemTotal:       65485916 kB",
            "etc/machine-id": "b0c9d8e7f6a5948372615049382716a5",
            "sys/devices/system/cpu/cpufreq/boost": 1,
            **cpus,
            **files,
        },
    )


def card(root: Path, *gpus: FakeGpu, **facts: Any) -> dict[str, Any]:
    """The description of the machine of a tree, with these GPUs behind NVML."""
    this_machine.cache_clear()
    with driver(*gpus, **facts):
        return this_machine(root)


def test_the_facts_of_a_machine_are_plain_data_and_name_it() -> None:
    """It goes into a manifest as JSON."""
    found = this_machine()
    assert json.loads(json.dumps(found)) == found
    assert found["threads"] == len(os.sched_getaffinity(0))
    assert found["memory_gib"] >= 1
    assert machine_name() == found["name"]
    assert str(found["cores"]) in machine_name()
    assert found["id"] == found["machine_id"]


def test_the_same_machine_has_the_same_ids() -> None:
    """Reading twice, in this process or another, gives the same machine and instance."""
    code = "import json; from harness.profiling.machine import this_machine; print(json.dumps(this_machine()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, again = this_machine(), json.loads(done.stdout)
    assert (again["machine_id"], again["instance_id"]) == (first["machine_id"], first["instance_id"])


def test_describing_a_machine_imports_no_torch() -> None:
    """A device half that needs no tensors can record where it ran."""
    code = (
        "import sys; from harness.profiling.machine import this_machine; this_machine(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_neither_the_host_nor_its_machine_id_can_be_read_in_the_card(tmp_path: Path) -> None:
    """Only a digest under a salt leaves the computer."""
    text = json.dumps(card(orin(tmp_path)))
    assert "0f5c2a1e9b8d4c6fa7e3d2c1b0a99887" not in text
    assert socket.gethostname() not in json.dumps(card(Path("/")))


def test_a_jetson_is_named_by_its_board_and_identified_by_its_power_mode(tmp_path: Path) -> None:
    """The board's name, versions, mode, cores and largest clocks are there; NVML's name of the GPU is no machine's."""
    found = card(orin(tmp_path), ORIN_GPU)
    assert found["name"] == "NVIDIA Jetson AGX Orin Developer Kit (MAXN), 12 cores"
    assert found["processor"] == "Arm Cortex-A78AE"
    assert (found["cores"], found["memory_gib"], found["max_cpu_mhz"]) == (12, 61, [2202])
    assert (found["l4t"], found["jetpack"]) == ("36.4.3", "6.2+b77")
    assert (found["power_mode"], found["jetson_clocks"]) == ("MAXN", False)
    (gpu,) = found["accelerators"]
    assert (gpu["name"], gpu["max_clock_mhz"], gpu["power_limit_w"]) == ("Orin (nvgpu)", 1300, None)


def test_a_jetson_whose_nvml_does_not_start_still_has_its_gpu(tmp_path: Path) -> None:
    """JetPack 5 ships no NVML; sysfs and the device tree have it."""
    (gpu,) = card(orin(tmp_path), init=NO_LIBRARY)["accelerators"]
    assert (gpu["name"], gpu["max_clock_mhz"]) == ("tegra234 GPU", 1300)


def test_telemetry_reports_what_nvml_on_a_jetson_does_not_support(tmp_path: Path) -> None:
    """The GPU is found; only the reasons for a lower clock are missing."""
    with driver(ORIN_GPU):
        told = Telemetry(orin(tmp_path) / "sys").sources["gpu"]
    assert told == "unavailable: NVML does not support the reasons for a lower clock on GPU 0 (Orin (nvgpu))"


def test_another_power_mode_or_pinned_clocks_make_another_machine_on_one_instance(tmp_path: Path) -> None:
    """Both decide speed, and neither makes it another board."""
    nvpmodel = '#!/bin/sh\nprintf "NV Power Mode: MODE_30W\\n2\\n"'
    plain = card(orin(tmp_path / "a"))
    slower = card(orin(tmp_path / "b", **{"usr/sbin/nvpmodel": nvpmodel}))
    pins = {f"sys/devices/system/cpu/cpu{n}/cpufreq/scaling_min_freq": 2_201_600 for n in range(12)}
    pinned = card(orin(tmp_path / "c", **pins, **{"sys/class/devfreq/17000000.gpu/min_freq": 1_300_500_000}))
    assert (slower["power_mode"], pinned["jetson_clocks"]) == ("MODE_30W", True)
    assert len({found["machine_id"] for found in (plain, slower, pinned)}) == 3
    assert len({found["instance_id"] for found in (plain, slower, pinned)}) == 1


def test_clocks_are_those_of_the_processors_that_are_online(tmp_path: Path) -> None:
    """In its mode of 30 W an AGX Orin has eight; the last clocks of the others are still in sysfs."""
    root = orin(tmp_path, **{"sys/class/devfreq/17000000.gpu/min_freq": 1_300_500_000})
    for number in range(12):
        folder, online = root / f"sys/devices/system/cpu/cpu{number}", number < 8
        clocks = {"scaling_min_freq": 1_728_000, "scaling_max_freq": 1_728_000, "scaling_cur_freq": 1_728_000}
        last = {"scaling_min_freq": 729_600, "scaling_max_freq": 2_201_600, "scaling_cur_freq": 2_201_600}
        files = {"online": int(online)} | {
            f"cpufreq/{name}": value for name, value in (clocks if online else last).items()
        }
        tree(folder, files)
    assert card(root)["jetson_clocks"] is True
    with driver(init=NO_LIBRARY):
        assert conditions(root)["cpu_mhz"] == 1728
        telemetry = Telemetry(root / "sys")
    telemetry.begin()
    telemetry.end()
    assert telemetry.sources["clocks"] == "1728 to 1728 MHz"
    for name in last:
        (root / f"sys/devices/system/cpu/cpu11/cpufreq/{name}").write_text("")
    assert card(root)["jetson_clocks"] is True


def test_a_power_mode_that_cannot_be_read_is_null(tmp_path: Path) -> None:
    """A tool that fails or prints something else gives no mode."""
    for number, script in enumerate(("#!/bin/sh\nexit 1", "no program", "#!/bin/sh\necho cannot open /sys")):
        assert card(orin(tmp_path / str(number), **{"usr/sbin/nvpmodel": script}))["power_mode"] is None


@pytest.mark.parametrize(
    ("status", "mode"),
    [("pmode:0002 fmode:quiet", "MODE_30W"), ("pmode:0000", "MAXN"), ("pmode:0007", None), ("", None)],
)
def test_the_power_mode_in_a_container_is_the_one_that_is_noted(tmp_path: Path, status: str, mode: str | None) -> None:
    """The program is the host's; its configuration and what it noted can be mounted."""
    conf = (
        "# < POWER_MODEL ID=7 NAME=NONE >\n< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n\n"
        "< POWER_MODEL ID=2 NAME=MODE_30W >\nCPU_ONLINE CORE_0 1\n< PM_CONFIG DEFAULT=2 >"
    )
    root = orin(tmp_path, **{"etc/nvpmodel.conf": conf, "var/lib/nvpmodel/status": status})
    (root / "usr/sbin/nvpmodel").unlink()
    assert card(root)["power_mode"] == mode


def test_jetpack_is_null_where_its_package_is_not_installed(tmp_path: Path) -> None:
    """A removed package leaves an entry."""
    removed = "Package: nvidia-jetpack\nStatus: deinstall ok config-files\nVersion: 6.2+b77"
    assert card(orin(tmp_path, **{"var/lib/dpkg/status": removed}))["jetpack"] is None


def test_two_boards_of_a_kind_are_one_machine_and_two_instances(tmp_path: Path) -> None:
    """Their numbers compare; a run is not resumed on the other."""
    one, other = card(orin(tmp_path / "a")), card(orin(tmp_path / "b", **{"etc/machine-id": "f" * 32}))
    assert one["machine_id"] == other["machine_id"]
    assert one["instance_id"] != other["instance_id"]


@pytest.mark.parametrize("machine_id", ["", "uninitialized"])
def test_a_board_without_a_machine_id_is_identified_by_its_serial_number(tmp_path: Path, machine_id: str) -> None:
    """A read-only image has none, nor has an image before its first boot."""
    one = card(orin(tmp_path / "a", **{"etc/machine-id": machine_id}))
    files = {"etc/machine-id": machine_id, "proc/device-tree/serial-number": "7\x00"}
    assert one["instance_id"] != card(orin(tmp_path / "b", **files))["instance_id"]


def test_a_workstation_has_its_cards_limits_and_driver(tmp_path: Path) -> None:
    """Power limit, largest clocks and memory of the card decide speed; the driver belongs to the instance."""
    found = card(workstation(tmp_path), CARD, driver="570.86.15")
    assert found["name"] == "NVIDIA GeForce RTX 4090 (AMD Ryzen 9 7950X 16-Core Processor, 16 cores)"
    assert found["accelerators"] == [
        {
            "name": "NVIDIA GeForce RTX 4090",
            "memory_gib": 24,
            "max_clock_mhz": 3105,
            "max_memory_clock_mhz": 10501,
            "power_limit_w": 450.0,
        }
    ]
    assert (found["driver"], found["boost"], found["max_cpu_mhz"], found["memory_gib"]) == (
        "570.86.15",
        True,
        [5752],
        62,
    )
    newer = card(workstation(tmp_path), CARD, driver="580.95.05")
    assert newer["machine_id"] == found["machine_id"]
    assert newer["instance_id"] != found["instance_id"]


@pytest.mark.parametrize("change", [{"limit_mw": 300_000}, {"sm_mhz": 2520}, {"memory_bytes": 51_527_024_640}])
def test_a_card_with_other_limits_is_another_machine(tmp_path: Path, change: dict[str, int]) -> None:
    """The power limit was lowered, or the card is another model of the same name."""
    other = FakeGpu(**{**vars(CARD), **change})
    assert card(workstation(tmp_path), CARD)["machine_id"] != card(workstation(tmp_path), other)["machine_id"]


def test_the_present_clock_is_in_no_identity(tmp_path: Path) -> None:
    """Nor is the governor that set it; both are recorded beside."""
    one = card(workstation(tmp_path))
    live = {"scaling_cur_freq": 545_000, "scaling_governor": "performance"}
    other = card(workstation(tmp_path, **{f"sys/devices/system/cpu/cpu0/cpufreq/{k}": v for k, v in live.items()}))
    assert (one["cpu_mhz"], other["cpu_mhz"], other["governor"]) == (3100, 545, "performance")
    assert (one["machine_id"], one["instance_id"]) == (other["machine_id"], other["instance_id"])


@pytest.mark.parametrize(
    ("cores", "name"),
    [
        ([(0x41, 0xD40)] * 64, "Arm Neoverse-V1"),
        ([(0xC0, 0xAC3)] * 80, "Ampere Ampere-1"),
        ([(0x41, 0xD05)] * 4 + [(0x41, 0xD0B)] * 4, "4 Arm Cortex-A55 + 4 Arm Cortex-A76"),
        ([(0x41, 0xFFF)], "Arm part 0xfff"),
        ([(0x99, 0x001)], "implementer 0x99 part 0x001"),
    ],
)
def test_an_arm_processor_is_named_by_implementer_and_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: list[tuple[int, int]], name: str
) -> None:
    """The kernel prints numbers there; a number that no table has is shown as it is."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    files = {"proc/cpuinfo": arm_cpuinfo(*cores), **processors(len(cores), 2_600_000)}
    found = card(tree(tmp_path, files))
    assert found["name"] == f"{name}, {len(cores)} cores"
    assert found["architecture"] == "aarch64"


def test_a_system_without_information_has_a_card_of_nulls(tmp_path: Path) -> None:
    """Nothing fails, and nothing is invented."""
    found = card(tmp_path, init=NO_LIBRARY)
    assert found["accelerators"] == found["max_cpu_mhz"] == []
    for fact in ("model", "power_mode", "jetson_clocks", "l4t", "jetpack", "driver", "governor", "cpu_mhz", "boost"):
        assert found[fact] is None, fact


def test_nvml_is_the_librarys_own() -> None:
    """The fake is behind the module pynvml, so that the real structures and errors are tested."""
    with driver(CARD, ORIN_GPU):
        handle = pynvml.nvmlDeviceGetHandleByIndex(1)
        assert pynvml.nvmlDeviceGetName(handle) == "Orin (nvgpu)"
        with pytest.raises(pynvml.NVMLError_NotSupported):
            pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)
