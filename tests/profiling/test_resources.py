"""Memory and operations: closed forms on known work, and on halves whose weights are known."""

import dataclasses
import functools
import subprocess
import sys
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.models.contract import Sharing
from harness.profiling.resources import OperationsClock, weights_bytes
from tests.small_models import make_backbone

ROOT = Path(__file__).parents[2]


def test_a_product_and_attention_have_the_operations_of_their_definition() -> None:
    """2 m k n for a product; 4 L^2 d a head for attention, fused on the CPU or not; a stage entered twice adds up."""
    clock = OperationsClock("cpu")
    for _ in range(2):
        with clock.stage("product"):
            torch.ones(3, 5) @ torch.ones(5, 7)
    q_HLD = torch.ones(1, 2, 16, 8)
    with clock.stage("attention"):
        torch.nn.functional.scaled_dot_product_attention(q_HLD, q_HLD, q_HLD)
    with clock.stage("numpy"):
        np.ones((3, 5)) @ np.ones((5, 7))
    assert clock.operations == {"product": 2 * 2 * 3 * 5 * 7, "attention": 2 * 4 * 16**2 * 8, "numpy": 0}


def test_operations_are_those_of_torchs_own_counter() -> None:
    """Whole layers without autograd, convolutions, attention with a mask, and what has no products at all."""
    linear, conv = torch.nn.Linear(8, 16), torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
    back = torch.nn.ConvTranspose2d(8, 3, 3)
    x_BLD, image = torch.ones(2, 5, 8), torch.ones(1, 3, 20, 12)

    @torch.inference_mode()
    def work() -> None:
        back(conv(image)).flatten().double().mean().item()
        y_BLE = linear(x_BLD).reshape(10, 2, 8).contiguous()
        torch.nn.functional.scaled_dot_product_attention(y_BLE, y_BLE, y_BLE, is_causal=True)
        torch.einsum("ble,bme->blm", y_BLE, y_BLE)

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    clock = OperationsClock("cpu")
    with clock.stage("all"):
        work()
    assert clock.operations["all"] == counter.get_total_flops() > 0


_TAKES = """
import numpy as np, torch
from harness.profiling.resources import memory_taken_bytes

held = np.ones(16 << 20, np.uint8)
for megabytes in (64, 96):
    def work():
        np.ones(megabytes << 20, np.uint8)
        torch.ones(megabytes << 20, dtype=torch.uint8)

    work()
    print(megabytes, memory_taken_bytes(work, "cpu"))
"""


@pytest.mark.slow
def test_memory_that_is_taken_and_freed_is_seen() -> None:
    """The peak is what was held at once, by any allocator, without what was held before.

    In a process of its own: what the C library does with freed memory depends on all that a process did before.
    """
    done = subprocess.run([sys.executable, "-c", _TAKES], capture_output=True, text=True, check=True, cwd=ROOT)
    for line in done.stdout.splitlines():
        megabytes, taken = line.split()
        if taken == "None":
            pytest.skip("this system does not report a process's peak memory")
        assert abs(int(taken) - (int(megabytes) << 20)) < 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class _Half:
    net: torch.nn.Module
    table: np.ndarray
    also: object


def test_weights_are_counted_once_wherever_they_are_stored() -> None:
    """Parameters, buffers, arrays; behind slots, closures, partials and bound methods; shared storage once."""
    net = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.BatchNorm1d(20))
    in_net = sum(tensor.nbytes for tensor in [*net.parameters(), *net.buffers()])
    table, extra = np.zeros(100, np.int32), torch.zeros(7)

    def closed() -> torch.Tensor:
        return extra

    assert weights_bytes(_Half(net, table, next(net.parameters()).view(-1))) == in_net + 400
    assert weights_bytes(functools.partial(closed)) == 28
    assert weights_bytes([closed, extra[2:], net.forward, {"name": "half", "table": table[::2]}]) >= in_net + 28
    assert weights_bytes(print) == 0


def test_what_is_held_by_views_and_by_default_arguments_counts_once() -> None:
    """Two views of an array are that array, as of a tensor; what a function has as its defaults is its own."""
    table, kept = np.zeros(100, np.float32), torch.zeros(7)
    assert weights_bytes([table[:50], table[50:].reshape(5, 10), np.broadcast_to(table[:1], (1000, 1))]) == 400

    def encode(sample: object, weights: torch.Tensor = kept, *, levels: np.ndarray = table[2:]) -> None: ...

    assert weights_bytes(deque([encode])) == 28 + 400


def test_features_that_are_kept_for_other_points_are_no_weights() -> None:
    """A half weighs the same before its answers as after them, when it holds the features of the last pictures."""
    backbone = make_backbone()
    before = weights_bytes(backbone)
    for colour in ("red", "blue"):
        backbone.see(Image.new("RGB", (50, 40), colour), Sharing())
    assert len(backbone._seen) == 2
    assert weights_bytes(backbone) == before
