"""What is trained, as one module: vision tower, merging, codec, projector, language model; its losses.

P patches   V features a patch   C clusters   D dimension   T visual tokens   H width of the language model
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from harness.models.llava import Llava
from harness.tofc.codec import TofcCodec
from harness.tofc.merging import merge
from harness.tofc.training import feature_distortion
from harness.training.packing import Script, answer_loss


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Examples at once: of each its picture, or None, and its dialogues.

    A picture is normalised pixels (P, 3, p, p), or features that were merged before (P, C, D).
    """

    pictures: Sequence[Tensor | None]
    scripts: Sequence[Sequence[Script]]


class Losses(NamedTuple):
    """D (Eq. 10), R in bits per element of y (Eq. 16), Eq. 18 over alpha; the share of answer tokens that are right."""

    distortion: Tensor
    rate: Tensor
    imbalance: Tensor
    right: Tensor


class SplitModel(nn.Module):
    """Lines 4-14 of Algorithm 1. The gradient reaches the tower through the means of merging, not through its choices.

    ``merged`` says that batches hold merged features, and leaves the tower out.
    """

    def __init__(
        self, backbone: Llava, codec: TofcCodec, *, merged: bool, distortion: Literal["answers", "features"] = "answers"
    ) -> None:
        super().__init__()
        self.codec = codec
        self.model = backbone.model
        self._merged, self._distortion = merged, distortion
        self._features = backbone.features
        self._before: list[int] = backbone.tokenizer.encode(backbone.template.before, add_special_tokens=False).ids

    def forward(self, batch: Batch, n_clusters: int, temperature: float) -> Losses:
        """The losses of a batch, its pictures merged to ``n_clusters`` a patch; see :meth:`TofcCodec.forward` for T."""
        device = self.codec.offset_D.device
        shown = [picture.to(device) for picture in batch.pictures if picture is not None]
        rate = imbalance = torch.zeros((), device=device)
        y_bar: list[Tensor] = []
        if shown:
            together = torch.cat(shown)
            x = together if self._merged else self._features(together)
            # Rates and means want float32, whatever the networks around compute in.
            with torch.autocast(device.type, enabled=False):
                y_PCD = x.float() if self._merged else merge(x.float(), n_clusters).y_PCD
                y_bar_PCD, rate, imbalance = self.codec(y_PCD, temperature)
            if self._distortion == "features":
                return Losses(feature_distortion(y_bar_PCD, y_PCD), rate, imbalance, torch.zeros((), device=device))
            y_bar = list(torch.split(y_bar_PCD, [len(picture) for picture in shown]))
        loss, right = self.answers(batch, y_bar)
        return Losses(loss, rate, imbalance, right)

    def answers(self, batch: Batch, y_bar: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """D and the share of right tokens from the decoded features (P, C, D) of the batch's pictures."""
        projector = self.model.model.multi_modal_projector
        dtype = projector.linear_1.weight.dtype
        left = iter(y_bar)
        tokens = [None if p is None else projector(next(left).flatten(0, 1).to(dtype)) for p in batch.pictures]
        return answer_loss(self.model, self._before, tokens, batch.scripts)
