"""Dot products of int8 weights with int16 activations, summed in int32, in the vectors of the processor at hand.

    O outputs   I inputs, a multiple of BLOCK   N features

Compilers do not vectorise products of two widths well, so the inner loop is spelt out in LLVM's vectors, which every
processor has in some form. Integer addition is associative: the sums are the same on all of them.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from harness.kernels import kernel

BLOCK = 32
"""Inputs multiplied at a time; rows of weights and activations are padded with zeros to a multiple of it."""

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_SUMS = ir.VectorType(_I32, BLOCK // 2)
_EVEN = ir.Constant(_SUMS, list(range(0, BLOCK, 2)))
_ODD = ir.Constant(_SUMS, list(range(1, BLOCK, 2)))


def _dots(rows: int) -> Callable[..., None]:
    """Make ``dots(w_OI, o, x_NI, n, sum_NO)``: sum_NO[n + r, o] = w_OI[o] . x_NI[n + r] for r < ``rows``.

    One load of a weight serves all rows, which is what the time of a layer with few features depends on.
    """

    @intrinsic
    def dots(typing: Any, w_OI: Any, o: Any, x_NI: Any, n: Any, sum_NO: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            weights, inputs, sums = (
                context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 2, 4)
            )
            o, n = arguments[1], arguments[3]
            n_inputs = cgutils.unpack_tuple(builder, weights.shape)[1]  # type: ignore[no-untyped-call]
            n_outputs = cgutils.unpack_tuple(builder, sums.shape)[1]  # type: ignore[no-untyped-call]
            features = [builder.add(n, ir.Constant(_I64, row)) for row in range(rows)]
            weight_row = builder.gep(weights.data, [builder.mul(o, n_inputs)])
            input_rows = [builder.gep(inputs.data, [builder.mul(feature, n_inputs)]) for feature in features]

            before, body, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(body)
            builder.position_at_end(body)
            i = builder.phi(_I64)
            i.add_incoming(ir.Constant(_I64, 0), before)
            totals = [builder.phi(_SUMS) for _ in features]

            def load(row: Any, kind: Any) -> Any:
                pointer = builder.bitcast(builder.gep(row, [i]), ir.VectorType(kind, BLOCK).as_pointer())
                vector = builder.load(pointer)
                vector.align = 1
                return builder.sext(vector, ir.VectorType(_I32, BLOCK))

            weight = load(weight_row, _I8)
            following = builder.add(i, ir.Constant(_I64, BLOCK))
            for total, row in zip(totals, input_rows, strict=True):
                # The sum of two neighbouring products is one instruction on x86 (pmaddwd), a few elsewhere.
                product = builder.mul(weight, load(row, _I16))
                even, odd = (builder.shuffle_vector(product, product, half) for half in (_EVEN, _ODD))
                total.add_incoming(ir.Constant(_SUMS, [0] * (BLOCK // 2)), before)
                total.add_incoming(builder.add(total, builder.add(even, odd)), body)
            i.add_incoming(following, body)
            builder.cbranch(builder.icmp_signed("<", following, n_inputs), body, after)
            builder.position_at_end(after)
            name, kind = f"llvm.vector.reduce.add.v{BLOCK // 2}i32", ir.FunctionType(_I32, [_SUMS])
            reduce = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
            for total, feature in zip(totals, features, strict=True):
                place = builder.gep(sums.data, [builder.add(builder.mul(feature, n_outputs), o)])
                builder.store(builder.call(reduce, [total.incomings[1][0]]), place)
            return context.get_dummy_value()

        return types.void(w_OI, o, x_NI, n, sum_NO), generate

    made: Callable[..., None] = dots
    return made


_dots_8, _dots_4, _dots_2, _dots_1 = (_dots(rows) for rows in (8, 4, 2, 1))


@kernel
def products(w_OI: NDArray[np.int8], x_NI: NDArray[np.int16], sum_NO: NDArray[np.int32]) -> None:
    """sum_NO = x_NI w_OI^T; contiguous, I a positive multiple of BLOCK, and no sum of |w x| may reach 2**31."""
    n_features = x_NI.shape[0]
    for o in range(w_OI.shape[0]):
        n = 0
        while n + 8 <= n_features:
            _dots_8(w_OI, o, x_NI, n, sum_NO)
            n += 8
        if n + 4 <= n_features:
            _dots_4(w_OI, o, x_NI, n, sum_NO)
            n += 4
        if n + 2 <= n_features:
            _dots_2(w_OI, o, x_NI, n, sum_NO)
            n += 2
        if n < n_features:
            _dots_1(w_OI, o, x_NI, n, sum_NO)
