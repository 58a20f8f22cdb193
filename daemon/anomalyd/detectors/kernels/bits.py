"""Numbers whose bits say which lanes of a vector are meant, so that a loop visits those lanes and no others.

A branch in each lane would be guessed wrong about as often as a lane is meant; a loop over bits only at its end.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from anomalyd.detectors.kernels.jit import leaf


def _count_zeros(typing: Any, bits: Any) -> Any:
    """Number of zeros below the lowest bit that is set."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


_zeros: Any = intrinsic(_count_zeros)


@leaf
def lowest(bits: Any) -> Any:
    """Place of the lowest bit that is set; there must be one."""
    return _zeros(bits)


@leaf
def without_lowest(bits: Any) -> Any:
    """The same without the lowest bit."""
    return bits & (bits - 1)
