"""numba kernels over blocks: no Python object per sample or series, GIL released, compiled code cached on disk."""
