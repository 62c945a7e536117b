"""Vision towers of transformers, run as far as their features are wanted.

    P patches   C colour channels   V features a patch   D dimension   A attention heads   K dimension of a head
    S positions: the V features, and before them the class token where there is one

SigLIP and CLIP, of transformers before 5.17 and after.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from harness.models.contract import Attention

_CHUNK_ELEMENTS = 1 << 24
"""Bound on the elements of one chunk's attention: 64 MiB in float32."""


def features(tower: Any, pixels_PCHW: torch.Tensor, layer: int, *, drop_cls: bool = False) -> torch.Tensor:
    """The features x (P, V, D) of one layer, without the class token where ``drop_cls``; differentiable.

    They are transformers' ``hidden_states[layer]``, which is taken before any layer norm at the tower's end. Layers
    behind the one wanted are not run, and no other layer's states are kept.
    """
    return _run(tower, pixels_PCHW, _blocks(tower, layer), drop_cls=drop_cls)


def attended_features(
    tower: Any, pixels_PCHW: torch.Tensor, layer: int, *, drop_cls: bool = False
) -> tuple[torch.Tensor, Attention]:
    """:func:`features`, and how the last layer run for them attended to each, from the same pass.

    Where there is a class token, what it pays is taken; elsewhere, or where it is kept as a feature, the mean of what
    all positions pay.
    """
    blocks = _blocks(tower, layer)
    with _queries_and_keys(blocks[-1].self_attn) as caught:
        hidden_PSD = _run(tower, pixels_PCHW, blocks, drop_cls=False)
    q_PASK, k_PASK = (
        caught[name].view(*caught[name].shape[:2], blocks[-1].self_attn.num_heads, -1).transpose(1, 2)
        for name in ("q", "k")
    )
    n_asking = 1 if drop_cls else q_PASK.shape[2]
    received_PS = _received(q_PASK[:, :, :n_asking], k_PASK)
    first = 1 if drop_cls else 0
    class_PD = hidden_PSD[:, 0] if drop_cls else None
    return hidden_PSD[:, first:], Attention(received_PS[:, first:], k_PASK.mean(1)[:, first:], class_PD)


def _blocks(tower: Any, layer: int) -> Any:
    layers = getattr(tower, "vision_model", tower).encoder.layers
    return layers[: layer if layer >= 0 else len(layers) + 1 + layer]


def _run(tower: Any, pixels_PCHW: torch.Tensor, blocks: Any, *, drop_cls: bool) -> torch.Tensor:
    body = getattr(tower, "vision_model", tower)
    hidden_PSD: torch.Tensor = body.embeddings(pixels_PCHW.to(next(body.embeddings.parameters()).dtype))
    if hasattr(body, "pre_layrnorm"):
        hidden_PSD = body.pre_layrnorm(hidden_PSD)
    for block in blocks:
        out = block(hidden_PSD, attention_mask=None)
        hidden_PSD = out[0] if isinstance(out, tuple) else out
    return hidden_PSD[:, 1:] if drop_cls else hidden_PSD


@contextlib.contextmanager
def _queries_and_keys(attention: Any) -> Iterator[dict[str, torch.Tensor]]:
    """What a layer's projections give while the body runs: fused attention returns no weights to look at."""
    caught: dict[str, torch.Tensor] = {}
    hooks = [
        getattr(attention, f"{name}_proj").register_forward_hook(
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
