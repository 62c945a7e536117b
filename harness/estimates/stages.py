"""The stages of every scheme at full size, as work: what each side does for one request.

The schemes of the harness are here; those of the baselines are where :data:`harness.catalog.WORK` says. Stages have the
names that the schemes' halves time. Network, queues and kernel launches are not included.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from harness import catalog
from harness.errors import ScenarioError
from harness.estimates.backbone import CountedBackbone, entropy_networks, merging
from harness.estimates.estimate import Work
from harness.estimates.roofline import Count
from harness.records import Side
from harness.scenario.model import PipelineSpec
from harness.schemes.contract import MergingPoint
from harness.schemes.image_codec import size_within


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NominalRequest:
    """A request: its picture's size, the prompt's text and the answer's length in tokens."""

    width_px: int
    height_px: int
    text_tokens: int
    answer_tokens: int

    @property
    def pixels(self) -> int:
        """Those of the picture."""
        return self.width_px * self.height_px

    def at_most(self, max_side_px: int | None) -> "NominalRequest":
        """The same question about the picture that an image codec sends, whose longer side may be bounded."""
        width_px, height_px = size_within((self.width_px, self.height_px), max_side_px)
        return dataclasses.replace(self, width_px=width_px, height_px=height_px)


WorkOf = Callable[[CountedBackbone, NominalRequest, Any], Iterator[Work]]
"""The work of a scheme at a point."""


def work_of(spec: PipelineSpec, backbone: CountedBackbone, asked: NominalRequest) -> Iterator[tuple[Any, list[Work]]]:
    """Each operating point of a pipeline with its work; raises ScenarioError for a scheme whose work is not counted."""
    if spec.scheme not in catalog.WORK:
        known = ", ".join(catalog.WORK)
        raise ScenarioError(f"the work of scheme {spec.scheme} cannot be counted; that of these can be: {known}")
    of: WorkOf = catalog.load("scheme", spec.scheme, catalog.WORK)
    for point in spec.operating_points():
        yield point, [work for work in of(backbone, asked, point) if work.count != Count()]


def tofc(backbone: CountedBackbone, asked: NominalRequest, point: Any) -> Iterator[Work]:
    """TOFC with the paper's sixteen entropy models."""
    yield from coded_features(backbone, asked, point, n_experts=16)


def coded_features(backbone: CountedBackbone, asked: NominalRequest, point: Any, *, n_experts: int) -> Iterator[Work]:
    """A scheme that merges features and codes them; with ``n_experts`` 0 its codec has no networks."""
    kept = point.kept_of(backbone.n_features)
    n_kept = backbone.patches(asked.width_px, asked.height_px) * kept
    symbols = Count(n_kept * (backbone.dim + (backbone.dim // 16 if n_experts else 0)))
    encoding, decoding = (
        entropy_networks(n_kept, backbone.dim, n_experts, decoding=is_decoding) if n_experts else Count()
        for is_decoding in (False, True)
    )
    yield from seeing("device", backbone, asked)
    yield Work("device", "merge", "dense", merged(backbone, asked))
    yield Work("device", "encode", "dense", encoding)
    yield Work("device", "encode", "entropy_coding", symbols)
    yield Work("server", "decode", "dense", decoding)
    yield Work("server", "decode", "entropy_coding", symbols)
    yield from answering("server", backbone, asked, n_kept)


def seeing(side: Side, backbone: CountedBackbone, asked: NominalRequest) -> Iterator[Work]:
    """Pixels to features."""
    pixels = backbone.seen_pixels(asked.width_px, asked.height_px)
    yield Work(side, "preprocess", "preprocess", Count(pixels))
    yield Work(side, "vision_encode", "vision", backbone.vision(asked.width_px, asked.height_px))


def merged(backbone: CountedBackbone, asked: NominalRequest) -> Count:
    """All patches' features merged."""
    return merging(backbone.patches(asked.width_px, asked.height_px), backbone.n_features, backbone.dim)


def answering(
    side: Side, backbone: CountedBackbone, asked: NominalRequest, n_features: int, n_tokens: int = 0
) -> Iterator[Work]:
    """Features to an answer; as many visual tokens as features, unless ``n_tokens`` says otherwise."""
    prompt = (n_tokens or n_features) + asked.text_tokens
    yield Work(side, "project", "dense", backbone.project(n_features))
    yield Work(side, "prefill", "prefill", backbone.prefill(prompt))
    yield Work(side, "generate", "generate", backbone.generate(prompt, asked.answer_tokens))


def seeing_and_answering(
    side: Side, backbone: CountedBackbone, asked: NominalRequest, point: MergingPoint
) -> Iterator[Work]:
    """Pixels to an answer on one side, merged as the point asks."""
    yield from seeing(side, backbone, asked)
    patches = backbone.patches(asked.width_px, asked.height_px)
    if (kept := point.kept_of(backbone.n_features)) is None:
        tokens = backbone.all_tokens(asked.width_px, asked.height_px)
        yield from answering(side, backbone, asked, patches * backbone.n_features, tokens)
    else:
        yield Work(side, "merge", "dense", merged(backbone, asked))
        yield from answering(side, backbone, asked, patches * kept)
