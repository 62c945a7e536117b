"""The work of the baselines at full size, for estimates (:mod:`harness.estimates.stages`).

Learned image codecs are counted at their published sizes: hyperprior with 192 and 320 channels, ELIC with those of its
paper; in float32. Their entropy coding is in the efficiency of whole encoders, from which estimates are made.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.ablations.schemes import DISTORTION
from harness.estimates.backbone import CountedBackbone, merging
from harness.estimates.counting import META, counted
from harness.estimates.estimate import Work
from harness.estimates.roofline import Count
from harness.estimates.stages import NominalRequest, answering, coded_features, merged, seeing, seeing_and_answering
from harness.schemes.contract import MergingPoint

if TYPE_CHECKING:
    from baselines.networks.network import Network

HYPERPRIOR = (192, 320)
_MULTIPLE_PX = 64
_HEADS = 16
"""The number of heads of both towers; VisionZip's keys are averaged over them."""


def server_only(backbone: CountedBackbone, asked: NominalRequest, point: Any) -> Iterator[Work]:  # noqa: ARG001
    """The file is read by the server, which keeps every token."""
    yield Work("server", "decode", "picture_decode", Count(asked.pixels))
    yield from seeing_and_answering("server", backbone, asked, MergingPoint())


def device_only(backbone: CountedBackbone, asked: NominalRequest, point: Any) -> Iterator[Work]:
    """The smaller model answers on the device."""
    from harness import catalog

    smaller = backbone_of(catalog.smaller(backbone.name, point.backbone))
    yield from seeing_and_answering("device", smaller, asked, point)


def raw_features(backbone: CountedBackbone, asked: NominalRequest, point: Any) -> Iterator[Work]:
    """Features in half precision: written and read once."""
    if point.kept_of(backbone.n_features) is None:
        tokens = backbone.all_tokens(asked.width_px, asked.height_px)
        yield from _in_half_precision(backbone, asked, backbone.n_features, None, tokens)
    else:
        yield from unmerged(backbone, asked, point)


def jpeg(backbone: CountedBackbone, asked: NominalRequest, point: Any) -> Iterator[Work]:
    """The picture as JPEG."""
    yield from _picture(backbone, asked, point, "jpeg_encode")


def webp(backbone: CountedBackbone, asked: NominalRequest, point: Any) -> Iterator[Work]:
    """The picture as WebP; its method is not in the estimate, whose efficiency is that of method 4."""
    yield from _picture(backbone, asked, point, "webp_encode")


def hyperprior(backbone: CountedBackbone, asked: NominalRequest, point: Any) -> Iterator[Work]:
    """The picture by a scale hyperprior."""
    yield from _learned(backbone, asked, point, "hyperprior")


def elic(backbone: CountedBackbone, asked: NominalRequest, point: Any) -> Iterator[Work]:
    """The picture by ELIC."""
    yield from _learned(backbone, asked, point, "elic")


def single(backbone: CountedBackbone, asked: NominalRequest, point: Any) -> Iterator[Work]:
    """One entropy model, and no router; nothing is coded at the point of Table I."""
    if Path(point.codec).name == DISTORTION:
        yield from unmerged(backbone, asked, point)
    else:
        yield from coded_features(backbone, asked, point, n_experts=1)


def without_networks(backbone: CountedBackbone, asked: NominalRequest, point: Any) -> Iterator[Work]:
    """Merged features whose coding needs no network: the heuristic Laplacian, a density for each channel."""
    yield from coded_features(backbone, asked, point, n_experts=0)


def unmerged(backbone: CountedBackbone, asked: NominalRequest, point: Any) -> Iterator[Work]:
    """What merging computes, whose means cost nothing beside it; the features are not coded."""
    kept = point.kept_of(backbone.n_features)
    yield from _in_half_precision(backbone, asked, kept, merged(backbone, asked))


def visionzip(backbone: CountedBackbone, asked: NominalRequest, point: Any) -> Iterator[Work]:
    """The last layer's attention again, and a product of the features' keys; the features are not coded."""
    patches, v, d = backbone.patches(asked.width_px, asked.height_px), backbone.n_features, backbone.dim
    scores = merging(patches, v, d)
    keys = Count(2.0 * patches * v * point.kept_of(v) * (d // _HEADS), 4.0 * patches * v * d)
    yield from _in_half_precision(backbone, asked, point.kept_of(v), scores + keys)


def qformer(backbone: CountedBackbone, asked: NominalRequest, point: Any) -> Iterator[Work]:
    """Two layers of as many queries as features are kept, 768 wide; the features are not coded."""
    patches = backbone.patches(asked.width_px, asked.height_px)
    kept = point.kept_of(backbone.n_features)
    reducing = _queries(patches, backbone.n_features, backbone.dim, kept)
    yield from _in_half_precision(backbone, asked, kept, reducing)


def _in_half_precision(
    backbone: CountedBackbone, asked: NominalRequest, kept: int, reducing: Count | None, n_tokens: int = 0
) -> Iterator[Work]:
    """Features that are reduced, or not where that is None, and cross the link as half-precision numbers."""
    n_kept = backbone.patches(asked.width_px, asked.height_px) * kept
    copied = Count(0.0, 4.0 * n_kept * backbone.dim)
    yield from seeing("device", backbone, asked)
    if reducing is not None:
        yield Work("device", "merge", "dense", reducing)
    yield Work("device", "encode", "dense", copied)
    yield Work("server", "decode", "dense", copied)
    yield from answering("server", backbone, asked, n_kept, n_tokens)


@functools.cache
def backbone_of(name: str) -> CountedBackbone:
    """A backbone, built once."""
    return CountedBackbone(name)


def _picture(backbone: CountedBackbone, asked: NominalRequest, point: Any, kind: str) -> Iterator[Work]:
    sent = asked.at_most(point.max_side)
    yield from _resizing(asked, sent)
    yield Work("device", "encode", kind, Count(sent.pixels))
    yield Work("server", "decode", "picture_decode", Count(sent.pixels))
    yield from seeing_and_answering("server", backbone, sent, point)


def _learned(backbone: CountedBackbone, asked: NominalRequest, point: Any, codec: str) -> Iterator[Work]:
    sent = asked.at_most(point.max_side)
    encode, decode = codec_work(codec, sent.width_px, sent.height_px)
    yield from _resizing(asked, sent)
    yield Work("device", "encode", "learned_codec", encode)
    yield Work("server", "decode", "learned_codec", decode)
    yield from seeing_and_answering("server", backbone, sent, point)


def _resizing(asked: NominalRequest, sent: NominalRequest) -> Iterator[Work]:
    if sent != asked:
        yield Work("device", "resize", "preprocess", Count(asked.pixels))


@functools.lru_cache(maxsize=32)
def codec_work(
    codec: str, width_px: int, height_px: int, channels: tuple[int, ...] = HYPERPRIOR
) -> tuple[Count, Count]:
    """What encoding and decoding a picture computes, its sides padded as the codec pads them.

    ``channels`` are those of the hyperprior.
    """
    import torch

    network = _network(codec, channels)
    height, width = (-(-side // _MULTIPLE_PX) for side in (height_px, width_px))
    x_13HW = torch.empty(1, 3, height * _MULTIPLE_PX, width * _MULTIPLE_PX, device=META)
    strings = [b""] * network.n_strings
    encode = counted(lambda: network.compress(x_13HW))
    decode = counted(lambda: network.g_s(network.decode_y(strings, height, width)))
    return encode, decode


def _network(codec: str, channels: tuple[int, ...]) -> "Network":
    """A network on the meta device whose entropy coders only pass shapes on."""
    import torch

    from baselines.networks.elic import Elic2022Official
    from baselines.networks.entropy_models import EntropyBottleneck, GaussianConditional
    from baselines.networks.hyperprior import ScaleHyperprior

    with META:
        network = Elic2022Official() if codec == "elic" else ScaleHyperprior(*channels)
    for module in network.modules():
        uncoded: Any = module
        if isinstance(module, GaussianConditional):
            uncoded.encode = lambda y, *_: (b"", y)
            uncoded.decode = lambda _, scales, *__: scales
        elif isinstance(module, EntropyBottleneck):
            n = module.channels
            uncoded.encode = lambda z: (b"", z)
            uncoded.decode = lambda _, height, width, n=n: torch.empty(1, n, height, width, device=META)
    return network.eval()


def _queries(n_patches: int, n_features: int, dim: int, queries: int) -> Count:
    import torch

    from baselines.ablations.qformer import QFormer, QFormerConfig

    with META:
        reducer = QFormer(QFormerConfig(dim=dim, queries=queries))
        x_PVD = torch.empty(n_patches, n_features, dim)
        hidden = reducer.queries_CH.expand(n_patches, -1, -1)
    return counted(lambda: reducer.inner(query_embeds=hidden, encoder_hidden_states=x_PVD))
