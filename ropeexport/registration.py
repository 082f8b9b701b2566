"""Register ropeexport's torch ops once torch is there, without loading it.

A saved program names its ops, and is read only where they are registered: ``torch.export.load``
after ``import ropeexport`` has to find them, whichever of the two was imported first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_OPS = (
    "ropeexport.ops.apply_rope_torch",
    "ropeexport.ops.norm_rope_torch",
    "ropeexport.ops.rope_table_torch",
)


class _WhenTorchIsImported(MetaPathFinder):
    """Finds torch as it would be found anyway, and registers the ops once it has run.

    It stays until then: who only asks whether torch is there (``importlib.util.find_spec``) gets a
    spec too, and drops it.
    """

    _is_asking = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torch" or self._is_asking:
            return None
        self._is_asking = True
        try:
            spec = find_spec(name)
        finally:
            self._is_asking = False
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            run = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                with suppress(ValueError):  # torch is imported again, after a failure say
                    sys.meta_path.remove(self)
                _register()

            loader.exec_module = exec_module
        return spec


def register() -> None:
    """Register the ops now where torch is imported, else when it is."""
    if "torch" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _WhenTorchIsImported())


def _register() -> None:
    with suppress(Exception):  # a torch that has no such ops is no fault of who imports it
        for name in _OPS:
            import_module(name)
