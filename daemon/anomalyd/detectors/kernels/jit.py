"""The one way to compile a kernel, so that all kernels agree on what a compiled function may do.

Kernels are plain loops over arrays, release the GIL (threads and process pools both gain), divide as numpy does
(x / 0 is infinity, never an exception) and keep the order of floating point operations (no fast math): a score must
not depend on the machine. Compiled code is cached on disk beside the source or in the user's cache directory; where
neither can be written it is compiled anew in each process.

The disk cache knows only the kernel's own file. A helper that other files' kernels call must therefore not change its
meaning without a change to them too, or their caches have to be deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile on first call; see the module's docstring for what is promised."""
    return _compiled(function)


def leaf(function: Function) -> Function:
    """As ``kernel``, for small functions that allocate nothing and return no array.

    They count no references to their arrays, and are part of whoever calls them: with many calls a sample the counting
    and the handing over of arrays cost more than the arithmetic.
    """
    return _compiled(function, _nrt=False, forceinline=True)


def seldom(function: Function) -> Function:
    """As ``leaf``, for what is called now and then: it stays apart, so that its callers stay small."""
    return _compiled(function, _nrt=False)


def _compiled(function: Function, **more: Any) -> Function:
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False, **more}
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no directory that the cache could be written to
        return numba.njit(**options)(function)  # type: ignore[no-any-return]
