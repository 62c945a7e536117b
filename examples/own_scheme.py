"""A scheme of your own: it sends each patch's mean feature, in half precision.

    PYTHONPATH=examples harness run examples/own_scheme.yaml

Run directly, the file prints this command: a scheme is run by a scenario that names it.

The halves share only bytes. The module does not import torch at its top: scenarios are checked and finished runs are
replayed on machines without it.

P patches (the thumbnail first)   V features a patch   D feature dimension
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from harness.data.sample import Question, Sample
from harness.errors import BitstreamError
from harness.schemes.contract import Answer, Clock, DeviceHalf, Models, OperatingPoint, Payload, ServerHalf
from harness.schemes.steps import answers


class MeanPoint(OperatingPoint):
    """``bits``: how many of each number's 16 bits are sent unchanged; the others are set to zero."""

    bits: int = Field(default=16, ge=6, le=16)


class Mean:
    """Sends one feature for each patch: the mean of its features."""

    kind: ClassVar[str] = "mean"
    Point: ClassVar[type[OperatingPoint]] = MeanPoint

    @classmethod
    def device_half(cls, models: Models, point: Any) -> DeviceHalf:
        """Needs the vision side."""
        import torch

        vision = models.vision()
        mask = np.uint16(0xFFFF << (16 - point.bits) & 0xFFFF)

        def half(sample: Sample, clock: Clock) -> Payload:
            bodies = []
            for image in sample.images():
                seen = vision.see(image, clock)
                with clock.stage("merge"):
                    mean_PD = torch.as_tensor(seen.x_PVD).float().mean(1).cpu().numpy()
                with clock.stage("encode"):
                    bodies.append((mean_PD.astype("<f2").view("<u2") & mask).tobytes())
            return Payload(cls.kind, tuple(bodies))

        return half

    @classmethod
    def server_half(cls, models: Models, point: Any) -> ServerHalf:
        """Needs the language side."""
        import torch

        language = models.language()

        def half(payload: Payload, questions: Sequence[Question], clock: Clock) -> list[Answer]:
            tokens = []
            for body in payload.bodies:
                with clock.stage("decode"):
                    n, rest = divmod(len(body), 2 * language.feature_dim)
                    if rest or not n:
                        raise BitstreamError(f"a body of {len(body)} bytes is no whole number of features")
                    y_P1D = torch.from_numpy(np.frombuffer(body, "<f2").astype(np.float32).reshape(n, 1, -1))
                with clock.stage("project"):
                    tokens.append(language.project(y_P1D))
            return answers(language, tokens, questions, clock)

        return half


if __name__ == "__main__":
    print("a scheme is run by a scenario: PYTHONPATH=examples harness run examples/own_scheme.yaml")
