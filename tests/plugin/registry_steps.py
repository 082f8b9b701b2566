"""Child process: load a plugin library in some order, print what the registry holds after each.

``python registry_steps.py none|lean|lean10|rtx STEP,STEP,... LIBRARY [SECOND]`` prints one JSON
object.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any


def _logger(trt: Any, errors: list[str]) -> Any:
    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            # without a GPU every error of TensorRT's draws one of CUDA's
            if severity == trt.ILogger.ERROR and "CUDA" not in message:
                errors.append(message)

    return Logger()


class Session:
    """A TensorRT, its global registry and, for RTX, a builder's own."""

    def __init__(self, kind: str, libraries: list[str]) -> None:
        self.libraries = libraries
        self.errors: list[str] = []
        self.registries: dict[str, Any] = {}
        self.loaded: Any = None
        self.opened: ctypes.CDLL | None = None
        self.version = ""
        if kind != "none":
            self._start(kind)

    def _start(self, kind: str) -> None:
        # no builder, and without a GPU no runtime: the registry alone; which version of it lies
        # first on the path
        if kind in ("lean", "lean10"):
            import tensorrt_lean_bindings as trt
        else:
            import tensorrt_rtx as trt

            self.builder = trt.Builder(_logger(trt, self.errors))
            self.registries["builder"] = self.builder.get_plugin_registry()
        self.trt = trt
        self.version = trt.__version__
        self.registries["global"] = trt.get_plugin_registry()

    def creators(self) -> dict[str, list[str]]:
        found = {}
        for name, registry in self.registries.items():
            all_creators = registry.all_creators
            keys = [f"{c.plugin_namespace}::{c.name} {c.plugin_version}" for c in all_creators]
            found[name] = sorted(key for key in keys if key.startswith("ropeexport::"))
        return found

    def step(self, step: str) -> None:
        registry = self.registries.get("builder", self.registries.get("global"))
        if step == "dlopen":
            self.opened = ctypes.CDLL(self.libraries[0])
        elif step == "dlopen_second":
            ctypes.CDLL(self.libraries[1])
        elif step == "dlclose":
            ctypes.CDLL(None).dlclose(ctypes.c_void_p(self.opened._handle))
        elif step == "load":
            self.loaded = registry.load_library(self.libraries[0])
        elif step == "load_second":
            self.loaded = registry.load_library(self.libraries[1])
        elif step == "unload":
            registry.deregister_library(self.loaded)
        elif step == "refuse":  # an engine without the field that every engine has
            fields, phase = self.trt.PluginFieldCollection([]), self.trt.TensorRTPhase.RUNTIME
            creator = registry.get_creator("ApplyRope", "1", "ropeexport")
            if creator.create_plugin("rope", fields, phase) is not None:
                self.errors.append("nothing was refused")


def main() -> None:
    kind, steps, *libraries = sys.argv[1:]
    session = Session(kind, libraries)
    after = []
    for step in steps.split(","):
        session.step(step)
        after.append(session.creators())
    result = {"after": after, "errors": session.errors, "version": session.version}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
