"""Importing torchvision, and packages that need it, in a process of its own."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from harness.models import torchvision_ops

with_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision, which comes with compressai, is not installed"
)


def in_a_new_process(program):
    """The output of a program in a fresh Python."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@with_torchvision
@pytest.mark.parametrize("module", ["harness.models.checkpoint", "harness.models.torchvision_ops, torchvision.ops"])
def test_torchvision_is_importable(module) -> None:
    """After the shim, or any module of the project that needs it, torch has the operator."""
    assert in_a_new_process(f"import {module}, torch; print(hasattr(torch.ops.torchvision, 'nms'))") == "True"


@with_torchvision
def test_the_declarations_are_made_once() -> None:
    """If the operators exist, declared or compiled, nothing is added."""
    assert hasattr(torch.ops.torchvision, "nms")
    assert torchvision_ops.declare_missing() is None


@pytest.mark.slow
def test_without_torchvision_nothing_is_declared() -> None:
    """If there is no torchvision, no operator is declared."""
    program = (
        "import importlib.util, torch\n"
        "found = importlib.util.find_spec\n"
        "absent = lambda name, *rest: None if name == 'torchvision' else found(name, *rest)\n"
        "importlib.util.find_spec = absent\n"
        "import harness.models.torchvision_ops as shim\n"
        "print(shim.LIBRARY, hasattr(torch.ops.torchvision, 'nms'))"
    )
    assert in_a_new_process(program) == "None False"
