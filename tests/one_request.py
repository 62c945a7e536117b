"""One question through both halves of a scheme."""

from typing import Any

import pytest

from harness.data.questions import samples
from harness.data.sample import Sample
from harness.data.streetsqa import book
from harness.errors import BitstreamError
from harness.models.contract import Clock, Untimed
from harness.profiling.clock import StageClock
from harness.schemes.contract import DeviceHalf
from harness.schemes.envelope import receive, send
from harness.schemes.tofc import Tofc, TofcPoint


def sent_bytes(half: DeviceHalf, sample: Sample, clock: Clock | None = None) -> bytes:
    """What a device half that sends something sends of a sample, in its envelope."""
    data = send(half, sample, clock or Untimed())
    assert isinstance(data, bytes)
    return data


def answers_from_its_stream(scheme: type[Tofc], models: Any, point: TofcPoint, *, n_clusters: int) -> None:
    """Its stages are TOFC's, it has the requested number of tokens, and damage to its stream is a BitstreamError."""
    device, server = scheme.device_half(models, point), scheme.server_half(models, point)
    sample = samples(book("test", 0)[:1], paired=False)[0]
    clocks = StageClock(), StageClock()
    data = sent_bytes(device, sample, clocks[0])
    (answer,) = receive(server, data, [sample.question], clocks[1], kind=scheme.kind)
    assert tuple(clocks[0].seconds) == ("preprocess", "vision_encode", "merge", "encode")
    assert tuple(clocks[1].seconds) == ("decode", "project", "prefill", "generate")
    n_h, n_w = models.vision().preprocess(sample.image()).layout.grid
    assert answer.visual_tokens == n_clusters * (n_h * n_w + 1)
    damaged = bytearray(data)
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(BitstreamError):
        receive(server, bytes(damaged), [sample.question], Untimed(), kind=scheme.kind)
