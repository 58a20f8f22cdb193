"""Numbers whose bits say which lanes of a vector are meant, so that a loop visits those lanes and no others.

A branch in each lane would be guessed wrong about as often as a lane is meant; a loop over bits only at its end.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from anomalyd.detectors.kernels.jit import leaf

LANES = 16


def _count_zeros(typing: Any, bits: Any) -> Any:
    """Number of zeros below the lowest bit that is set."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


_zeros: Any = intrinsic(_count_zeros)


def _compare(typing: Any, cells: Any, limit: Any) -> Any:
    """Compare all lanes at a time; the comparison's mask is the number."""
    number, many = ir.IntType(32), ir.VectorType(ir.FloatType(), LANES)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        loaded = builder.load(builder.bitcast(data, many.as_pointer()), align=cells.dtype.bitwidth // 8)
        nothing = ir.Constant(many, ir.Undefined)
        one = builder.insert_element(nothing, values[1], ir.Constant(number, 0))
        limits = builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(number, LANES), [0] * LANES))
        mask = builder.fcmp_ordered("<", loaded, limits)
        return builder.zext(builder.bitcast(mask, ir.IntType(LANES)), ir.IntType(64))

    return types.int64(cells, types.float32), generate


_below: Any = intrinsic(_compare)


@leaf
def lowest(bits: Any) -> Any:
    """Place of the lowest bit that is set; there must be one."""
    return _zeros(bits)


@leaf
def without_lowest(bits: Any) -> Any:
    """The same without the lowest bit."""
    return bits & (bits - 1)


@leaf
def below(cells: Any, limit: Any) -> Any:
    """A number whose bits are set where cells [LANES] of float32, one behind the other, are below a limit."""
    return _below(cells, limit)
