"""What is trained, as one module: vision tower, merging, codec, projector, language model; its losses.

    P patches   V features a patch   C clusters   N = P C merged features   D dimension   E entropy models
    B examples   T visual tokens   H width of the language model

Every example of a step weighs the same in D and in R, and one without a picture has R = 0. So a step's losses are means
over its micro-batches, however the examples are divided among these. The balance loss is not: it is a square of the
whole step's mean weights, and :class:`Use` brings these to every micro-batch.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from harness.models import tower
from harness.models.contract import Attention
from harness.models.llava import Llava, LlavaVision
from harness.tofc.codec import TofcCodec
from harness.tofc.feature_codec import FeatureCodec
from harness.tofc.merging import Merging, Reducer
from harness.training.packing import Script, answer_losses


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Examples at once: of each its picture, or None, and its dialogues.

    A picture is normalised pixels (P, 3, p, p), or features that were merged before (P, C, D).
    """

    pictures: Sequence[Tensor | None]
    scripts: Sequence[Sequence[Script]]


class Use(NamedTuple):
    """Of a step's features, all micro-batches' and processes' (``parts`` of them): mean weights (Eq. 17), number."""

    mean_E: Tensor
    features: float
    parts: int

    @property
    def value(self) -> Tensor:
        """Eq. 18 over alpha."""
        return (self.mean_E - 1 / len(self.mean_E)).square().sum()

    def imbalance(self, w_NE: Tensor) -> Tensor:
        """A micro-batch's part of Eq. 18 over alpha: its mean over all parts has the step's value and gradient.

        With m the step's mean weights and u uniform, Eq. 18 is |m - u|^2, and its gradient 2 (m - u) dm.
        """
        mine = 2 * self.parts * (w_NE.sum(0) @ (self.mean_E - 1 / len(self.mean_E))) / self.features
        return self.value + mine - mine.detach()


class Losses(NamedTuple):
    """Means over examples: D (Eq. 10), R in bits per element of y (Eq. 16); Eq. 18 over alpha; the right tokens' share.

    Eq. 18 is 0 at temperature 0, where a model's choice has no gradient.
    """

    distortion: Tensor
    rate: Tensor
    imbalance: Tensor
    right: Tensor


class SplitModel(nn.Module):
    """Lines 4-14 of Algorithm 1. The gradient reaches the tower through the means of merging, not through its choices.

    ``merged`` says that batches hold merged features, and leaves the tower out. The distortion is that of the answers,
    or of the features: their squared error over ``variance``, the mean variance of a channel; with only a vision side
    there are no answers. Without a ``codec`` the features of ``reducer`` are used uncoded.
    """

    def __init__(
        self,
        backbone: Llava | LlavaVision,
        codec: FeatureCodec | None,
        *,
        merged: bool,
        distortion: Literal["answers", "features"] = "answers",
        variance: float = 1.0,
        reducer: Reducer | None = None,
    ) -> None:
        super().__init__()
        self.codec = codec
        self.reducer: Reducer = reducer or Merging()
        self.model: Any = None
        self._merged, self._distortion, self._variance = merged, distortion, variance
        self._backbone = backbone
        if isinstance(backbone, Llava):
            self.model = backbone.model
            self._before: list[int] = backbone.tokenizer.encode(backbone.template.before, add_special_tokens=False).ids

    def forward(self, batch: Batch, n_clusters: int, temperature: float, use: Use | None = None) -> Losses:
        """The losses of a batch, its pictures merged to ``n_clusters`` a patch; see :meth:`TofcCodec.forward` for T.

        ``use`` is that of the step of which the batch is a part; None where it is the whole.
        """
        device = self._backbone.device
        zero = torch.zeros((), device=device)
        sizes = [len(picture) for picture in batch.pictures if picture is not None]
        if not sizes:
            loss_B, right = self.answers(batch, [])
            return Losses(loss_B.mean(), zero, zero if use is None else use.value, right)
        y_PCD = self._merged_features(batch, n_clusters)
        if self.codec is None:
            loss_B, right = self.answers(batch, torch.split(y_PCD, sizes))
            return Losses(loss_B.mean(), zero, zero, right)
        # Rates and means need float32, whatever the precision of the networks around them.
        with torch.autocast(device.type, enabled=False):
            coded = self.codec(y_PCD, temperature)
            n_examples = len(batch.pictures)
            bits = torch.stack([part.mean() for part in torch.split(coded.bits_N.view(y_PCD.shape[:2]), sizes)])
            rate = bits.sum() / y_PCD.shape[2] / n_examples
            imbalance = zero
            if temperature > 0:
                imbalance = coded.imbalance if use is None else use.imbalance(coded.w_NE)
            y_bar = torch.split(coded.y_PCD, sizes)
            if self._distortion == "features":
                pairs = zip(y_bar, torch.split(y_PCD, sizes), strict=True)
                lost = torch.stack([(after - before).square().mean() for after, before in pairs])
                return Losses(lost.sum() / self._variance / n_examples, rate, imbalance, zero)
        loss_B, right = self.answers(batch, y_bar)
        return Losses(loss_B.mean(), rate, imbalance, right)

    @torch.no_grad()
    def used(self, batch: Batch, n_clusters: int, temperature: float) -> Tensor:
        """The sum of the weights that the batch's features give each model (Eq. 17), then their number: (E + 1,)."""
        assert isinstance(self.codec, TofcCodec)
        device = self.codec.device
        total = torch.zeros(self.codec.config.n_experts + 1, device=device)
        if any(picture is not None for picture in batch.pictures):
            y_ND = self._merged_features(batch, n_clusters).flatten(0, 1)
            with torch.autocast(device.type, enabled=False):
                total[:-1] = self.codec.router.weights(y_ND, temperature).sum(0)
            total[-1] = len(y_ND)
        return total

    def _merged_features(self, batch: Batch, n_clusters: int) -> Tensor:
        """All the batch's pictures' merged features (P, C, D), float32."""
        device = self._backbone.device
        together = torch.cat([picture.to(device) for picture in batch.pictures if picture is not None])
        if self._merged:
            return together.float()
        x_PVD, attention = features(self._backbone, together, attended=self.reducer.attended)
        with torch.autocast(device.type, enabled=False):
            return self.reducer(x_PVD.float(), n_clusters, attention)

    def answers(self, batch: Batch, y_bar: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """D of each example (B,), and the share of right tokens, from its picture's decoded features (P, C, D)."""
        projector = self.model.model.multi_modal_projector
        dtype = projector.linear_1.weight.dtype
        left = iter(y_bar)
        tokens = [None if p is None else projector(next(left).flatten(0, 1).to(dtype)) for p in batch.pictures]
        return answer_losses(self.model, self._before, tokens, batch.scripts)


def features(backbone: LlavaVision, pixels_PCHW: Tensor, *, attended: bool) -> tuple[Tensor, Attention | None]:
    """All features of tiles (P, V, D), differentiable, and the tower's attention, which is not, if it is needed."""
    if not attended:
        return backbone.features(pixels_PCHW), None
    config = backbone.config
    x_PVD, attention = tower.attended_features(
        backbone.vision_tower,
        pixels_PCHW,
        config.vision_feature_layer,
        drop_cls=config.vision_feature_select_strategy == "default",
    )
    received_PV, keys_PVK = attention.received_PV.detach().float(), attention.keys_PVK.detach().float()
    return x_PVD, Attention(received_PV, keys_PVK, attention.class_PD)
