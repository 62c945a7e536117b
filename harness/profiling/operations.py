"""What torch computes, operation by operation as it is dispatched, counted by torch's own formulas."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While its body runs, calls ``add`` for each product, convolution and attention.

    ``add`` gets the number of operations, then the inputs and the output. A multiplication and an addition are two. The
    sums are those of torch's FlopCounterMode, which also attributes them to modules and takes several times as long.
    """

    def __init__(self, add: Callable[..., None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._add = add

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        formula, is_made_of_others = _known(func)
        if is_made_of_others:
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        if formula is not None:
            self._add(formula(*args, **kwargs, out_val=out), *args, *kwargs.values(), out)
        return out


@functools.cache
def _known(func: Any) -> tuple[Callable[..., int] | None, bool]:
    """An operation's formula if it is counted, and whether it is to be seen as the operations that it is made of.

    Without autograd a linear layer arrives as one operation; made of others it is a product.
    """
    formula = flop_registry.get(func.overloadpacket)
    return formula, formula is None and func is not torch.ops.prim.device.default and func._can_decompose()
