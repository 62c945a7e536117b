"""Vision towers of transformers, run only up to the layer of the features.

    P patches   C colour channels   V features a patch   D dimension   A attention heads   K dimension of a head
    S positions: a feature each, or a square of them a feature; before them the class token where there is one

SigLIP and CLIP, of transformers before 5.17 and after, and InternViT.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch

from harness.models.contract import Attention

_CHUNK_ELEMENTS = 1 << 24
"""Bound on the elements of one chunk's attention: 64 MiB in float32."""
_INTERN = "attention"
"""What a layer of InternViT calls its attention."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where a model is cut: which states of its tower are its features x (P, V, D).

    They are transformers' ``hidden_states[layer]``, without the class token where ``drops_class``, after the norm at
    the tower's end where ``is_normed``. A feature is a square of ``side`` x ``side`` positions: their states one after
    the other where it ``stacks`` them, else their mean. ``n_features`` is V, ``feature_dim`` D.
    """

    n_features: int
    feature_dim: int
    layer: int = -1
    drops_class: bool = False
    is_normed: bool = False
    side: int = 1
    stacks: bool = False


def cut_features(tower: Any, pixels_PCHW: torch.Tensor, cut: Cut) -> torch.Tensor:
    """The features x (P, V, D) of normalised pixels; differentiable."""
    x_PSD = features(tower, pixels_PCHW, cut.layer, drop_cls=cut.drops_class, normed=cut.is_normed)
    return squares(x_PSD, cut.side, stacks=cut.stacks)


def cut_attended(tower: Any, pixels_PCHW: torch.Tensor, cut: Cut) -> tuple[torch.Tensor, Attention]:
    """:func:`cut_features`, and how the last layer run for them attended to each, from the same pass.

    A square receives the mean of what its positions receive, and its key is the mean of theirs. A class token that has
    fewer dimensions than a feature is none.
    """
    x_PSD, seen = attended_features(tower, pixels_PCHW, cut.layer, drop_cls=cut.drops_class, normed=cut.is_normed)
    if cut.side == 1:
        return x_PSD, seen
    received_PV = squares(seen.received_PV[..., None], cut.side, stacks=False)[..., 0]
    keys_PVK = squares(seen.keys_PVK, cut.side, stacks=False)
    class_PD = None if cut.stacks else seen.class_PD
    return squares(x_PSD, cut.side, stacks=cut.stacks), Attention(received_PV, keys_PVK, class_PD)


def squares(x_PSD: torch.Tensor, side: int, *, stacks: bool) -> torch.Tensor:
    """The states of a square grid of S positions, gathered in squares of ``side`` x ``side``: (P, S / side**2, D).

    Where it ``stacks``, a feature has side**2 D dimensions: the square's states row by row (pixel shuffle). Elsewhere
    it is their mean.
    """
    if side == 1:
        return x_PSD
    n_patches, n_positions, dim = x_PSD.shape
    n = math.isqrt(n_positions) // side
    x_PnsnsD = x_PSD.reshape(n_patches, n, side, n, side, dim)
    if stacks:
        return x_PnsnsD.transpose(2, 3).reshape(n_patches, n * n, side * side * dim)
    return x_PnsnsD.mean((2, 4)).reshape(n_patches, n * n, dim)


def features(
    tower: Any, pixels_PCHW: torch.Tensor, layer: int, *, drop_cls: bool = False, normed: bool = False
) -> torch.Tensor:
    """The states (P, S, D) of one layer, without the class token where ``drop_cls``; differentiable.

    They are transformers' ``hidden_states[layer]``, which is taken before any layer norm at the tower's end; after it
    where ``normed``. Layers after that one are not run, and no other layer's states are stored.
    """
    return _run(tower, pixels_PCHW, _blocks(tower, layer), drop_cls=drop_cls, normed=normed)


def attended_features(
    tower: Any, pixels_PCHW: torch.Tensor, layer: int, *, drop_cls: bool = False, normed: bool = False
) -> tuple[torch.Tensor, Attention]:
    """:func:`features`, and how the last layer run for them attended to each, from the same pass.

    If there is a class token, its attention is used; otherwise, or if it is kept as a feature, the mean attention of
    all positions.
    """
    blocks = _blocks(tower, layer)
    attention = getattr(blocks[-1], _INTERN, None) or blocks[-1].self_attn
    with _queries_and_keys(attention) as caught:
        hidden_PSD = _run(tower, pixels_PCHW, blocks, drop_cls=False, normed=normed)
    q_PASK, k_PASK = (
        caught[name].view(*caught[name].shape[:2], attention.num_heads, -1).transpose(1, 2) for name in ("q", "k")
    )
    n_asking = 1 if drop_cls else q_PASK.shape[2]
    received_PS = _received(q_PASK[:, :, :n_asking], k_PASK)
    first = 1 if drop_cls else 0
    class_PD = hidden_PSD[:, 0] if drop_cls else None
    return hidden_PSD[:, first:], Attention(received_PS[:, first:], k_PASK.mean(1)[:, first:], class_PD)


def _blocks(tower: Any, layer: int) -> Any:
    encoder = getattr(tower, "vision_model", tower).encoder
    layers = encoder.layers if hasattr(encoder, "layers") else encoder.layer
    return layers[: layer if layer >= 0 else len(layers) + 1 + layer]


def _run(tower: Any, pixels_PCHW: torch.Tensor, blocks: Any, *, drop_cls: bool, normed: bool) -> torch.Tensor:
    body = getattr(tower, "vision_model", tower)
    hidden_PSD: torch.Tensor = body.embeddings(pixels_PCHW.to(next(body.embeddings.parameters()).dtype))
    if hasattr(body, "pre_layrnorm"):
        hidden_PSD = body.pre_layrnorm(hidden_PSD)
    for block in blocks:
        out = block(hidden_PSD) if hasattr(block, _INTERN) else block(hidden_PSD, attention_mask=None)
        hidden_PSD = out[0] if isinstance(out, tuple) else out
    if normed:
        hidden_PSD = (body.layernorm if hasattr(body, "layernorm") else body.post_layernorm)(hidden_PSD)
    return hidden_PSD[:, 1:] if drop_cls else hidden_PSD


@contextlib.contextmanager
def _queries_and_keys(attention: Any) -> Iterator[dict[str, torch.Tensor]]:
    """The outputs of a layer's projections while the body runs: fused attention returns no weights.

    InternViT may norm queries and keys after they are projected.
    """
    caught: dict[str, torch.Tensor] = {}
    last = "norm" if hasattr(attention, "q_norm") else "proj"
    hooks = [
        getattr(attention, f"{name}_{last}").register_forward_hook(
            lambda _module, _inputs, output, name=name: caught.__setitem__(name, output)
        )
        for name in ("q", "k")
    ]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()


def _received(q_PAQK: torch.Tensor, k_PASK: torch.Tensor) -> torch.Tensor:
    """The attention that each position receives, (P, S): the mean over heads and over the Q queries."""
    chunk = max(1, _CHUNK_ELEMENTS // (q_PAQK.shape[1] * q_PAQK.shape[2] * k_PASK.shape[2]))
    parts = []
    for q_AQK, k_ASK in zip(torch.split(q_PAQK, chunk), torch.split(k_PASK, chunk), strict=True):
        weight = torch.softmax((q_AQK @ k_ASK.mT).float() * q_AQK.shape[-1] ** -0.5, -1)
        parts.append(weight.mean((1, 2)))
    return torch.cat(parts)
