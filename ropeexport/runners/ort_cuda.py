"""onnxruntime's CUDA provider: its options, and the libraries that it needs in the process.

Source: onnxruntime's documentation of its CUDA provider (``use_tf32``) and of its installation
(``preload_dlls``).
"""

from __future__ import annotations

import contextlib
import sys

CUDA = "CUDAExecutionProvider"


def cuda_provider(**more: str) -> tuple[str, dict[str, str]]:
    """Return the provider with its options, ``more`` among them, for a session that comes next.

    The CUDA and cuDNN of the ``nvidia-*`` wheels lie where no loader looks, so they are loaded
    beforehand; what cannot be is said on standard error, and the session goes without the provider.
    """
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
        with contextlib.redirect_stdout(sys.stderr):  # it prints
            onnxruntime.preload_dlls()
    # float32 means float32: TF32 has the roundoff of float16
    return CUDA, {"use_tf32": "0", **more}
