"""Memory and operations: closed forms on known work, and on halves whose weights are known."""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from harness.profiling.resources import OperationsClock, memory_taken_bytes, weights_bytes


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


@pytest.mark.parametrize("megabytes", [64, 96])
def test_memory_that_is_taken_and_freed_is_seen(megabytes: int) -> None:
    """The peak is what was held at once, whoever allocated it, and what was held before is not in it.

    Of blocks up to 32 MiB the C library may keep freed ones, which are then in the peak.
    """
    held = np.ones(16 << 20, np.uint8)

    def work() -> None:
        np.ones(megabytes << 20, np.uint8)
        torch.ones(megabytes << 20, dtype=torch.uint8)

    work()
    taken = memory_taken_bytes(work, "cpu")
    if taken is None:
        pytest.skip("this system does not tell a process's peak of memory")
    assert abs(taken - (megabytes << 20)) < 1 << 20
    assert held.nbytes == 16 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class _Half:
    net: torch.nn.Module
    table: np.ndarray
    also: object


def test_weights_are_counted_once_wherever_they_are_held() -> None:
    """Parameters, buffers, arrays; behind slots, closures, partials and bound methods; shared storage once."""
    net = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.BatchNorm1d(20))
    in_net = sum(tensor.nbytes for tensor in [*net.parameters(), *net.buffers()])
    table, extra = np.zeros(100, np.int32), torch.zeros(7)

    def closed() -> torch.Tensor:
        return extra

    assert weights_bytes(_Half(net, table, net[0].weight.view(-1))) == in_net + 400
    assert weights_bytes(functools.partial(closed)) == 28
    assert weights_bytes([closed, extra[2:], net.forward, {"name": "half", "table": table[::2]}]) >= in_net + 28
    assert weights_bytes(print) == 0
