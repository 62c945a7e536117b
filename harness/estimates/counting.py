"""Operations and bytes of modules on torch's meta device: only shapes, no weight or feature is ever in memory.

    t = max(operations / peak, bytes / bandwidth) / efficiency

needs both of a stage. Counted are products, convolutions and attention, a multiplication and an addition being two
operations; their inputs, weights and outputs are the bytes. Elementwise operations are taken to be fused with these.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from harness.estimates.roofline import Count
from harness.profiling.operations import Products

META = torch.device("meta")


class Counter:
    """Counts what its body computes with torch, on any device.

    Attention counts as its two products, and reads and writes its queries, keys, values and output once: scores are
    not written. A causal one computes the half of the scores that it keeps.
    """

    def __init__(self) -> None:
        self.count = Count()
        self._modes: tuple[Any, ...] = (_Attention(self), Products(self.add))

    def __enter__(self) -> Self:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*exception)

    def add(self, operations: float, *tensors: Any) -> None:
        """Adds an operation and the tensors that it reads and writes."""
        n_bytes = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))
        self.count += Count(float(operations), float(n_bytes))


def counted(work: Callable[[], object]) -> Count:
    """What ``work`` computes, without gradients."""
    with torch.no_grad(), Counter() as counter:
        work()
    return counter.count


class _Attention(TorchFunctionMode):
    """Attention, before torch decomposes it into products."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs))[:3]
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        n_queries, n_keys = query.shape[-2], key.shape[-2]
        masked = kwargs.get("is_causal") or kwargs.get("attn_mask") is not None
        kept = causal_scores(n_queries, n_keys) if masked else n_queries * n_keys
        rows = math.prod(query.shape[:-2])
        self._counter.add(2 * rows * kept * (query.shape[-1] + value.shape[-1]), query, key, value, out)
        return out


def causal_scores(n_queries: int, n_keys: int) -> int:
    """The scores that a causal mask keeps of the last ``n_queries`` of ``n_keys`` positions."""
    return n_queries * n_keys - n_queries * (n_queries - 1) // 2
