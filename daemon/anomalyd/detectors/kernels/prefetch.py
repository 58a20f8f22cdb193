"""Asking the processor for memory that a kernel will need soon, so that many series cost no more each than few.

A kernel that walks from series to series meets each one's arrays in main memory as soon as there are too many for the
caches; their addresses are known one series ahead. The hint changes no result and is safe for any address.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from anomalyd.detectors.kernels.jit import leaf

LINE = 64
"""Bytes that come at a time."""
_unpack: Any = cgutils.unpack_tuple
_declare: Any = cgutils.get_or_insert_function
FOR_WRITING, KEPT_CLOSE, DATA = 1, 3, 1


def _call(builder: Any, address: Any) -> None:
    number = ir.IntType(32)
    signature = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), number, number, number])
    function = _declare(builder.module, signature, "llvm.prefetch.p0i8")
    builder.call(function, [address, *(ir.Constant(number, v) for v in (FOR_WRITING, KEPT_CLOSE, DATA))])


def _request(typing: Any, array: Any, row: Any, column: Any) -> Any:
    """Ask for the line of ``array[row, column]`` of a two-dimensional array."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0])
        strides = _unpack(builder, data.strides)
        offset = builder.add(builder.mul(values[1], strides[0]), builder.mul(values[2], strides[1]))
        _call(builder, builder.gep(builder.bitcast(data.data, ir.IntType(8).as_pointer()), [offset]))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), generate


_hint: Any = intrinsic(_request)


def _request_byte(typing: Any, array: Any, offset: Any) -> Any:
    """Ask for the line that lies so many bytes behind the begin of an array."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        _call(builder, builder.gep(builder.bitcast(data, ir.IntType(8).as_pointer()), [values[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


_hint_byte: Any = intrinsic(_request_byte)


@leaf
def prefetch_row(array: Any, row: Any, cells: Any = 1 << 30, first: Any = 0) -> None:
    """Ask for a row of a two-dimensional array, or for some of its cells; a row behind the last one is nothing."""
    if row < array.shape[0]:
        for column in range(first, min(cells, array.shape[1]), LINE // array.itemsize):
            _hint(array, row, column)


@leaf
def prefetch_cell(array: Any, row: Any, column: Any) -> None:
    """Ask for the line of one cell."""
    if row < array.shape[0]:
        _hint(array, row, column)


@leaf
def prefetch_all(array: Any) -> None:
    """Ask for all of a small two-dimensional array whose rows are a line each."""
    for row in range(array.shape[0]):
        _hint(array, row, 0)


@leaf
def prefetch_whole(array: Any) -> None:
    """Ask for all of a small array whose cells lie one behind the other, wherever it begins within a line."""
    for offset in range(0, array.nbytes, LINE):
        _hint_byte(array, offset)
    _hint_byte(array, array.nbytes - 1)
