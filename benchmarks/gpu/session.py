"""What the parts of a run share: options, the machine, the document, what was compiled."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu import result
from benchmarks.gpu.compiler import CompileError, Compiler, find_compiler
from benchmarks.gpu.device import CudaDevice
from benchmarks.gpu.kernel import Kernel
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.options import Options
from benchmarks.gpu.plugin import PluginFiles, compile_plugin
from benchmarks.gpu.verdict import Skipped


@dataclass
class Session:
    """A run on one machine; the document is on the disk whenever it changes."""

    options: Options
    machine: Machine
    path: Path
    document: result.Document
    started: float = field(default_factory=time.monotonic)
    _plugin: PluginFiles | Exception | None = None

    def say(self, text: str) -> None:
        """Print how far the run is."""
        print(f"[{time.monotonic() - self.started:5.0f} s] {text}", flush=True)

    def update(self, **fields: Any) -> None:
        """Change the document and write it."""
        self.document = self.document | fields
        result.write(self.path, self.document)

    def join(self, name: str, records: list[dict[str, Any]], key: Any) -> None:
        """Put records into a list of the document, in place of those of the same key."""
        self.update(**{name: result.joined(self.document[name], records, key)})

    def compiler(self) -> Compiler:
        """Return nvcc for this GPU."""
        return find_compiler(self.machine.architecture)

    def device(self) -> CudaDevice:
        """Return the GPU as torch sees it."""
        import torch

        if not torch.cuda.is_available():
            raise Skipped(
                f"MISSING: torch {torch.__version__} sees no GPU; install a build with CUDA"
            )
        return CudaDevice()

    def kernel(self) -> Kernel:
        """Return the compiled kernel."""
        self.say("compiling the kernel")
        return Kernel(self.compiler().kernel())

    def plugin(self) -> PluginFiles:
        """Return the plugin library and its harness; compiled once, or failed once."""
        if self._plugin is None:
            self.say("compiling the plugin and its harness")
            try:
                self._plugin = compile_plugin(self.compiler())
            except (Skipped, CompileError) as error:
                self._plugin = error
        if isinstance(self._plugin, Exception):
            raise self._plugin
        return self._plugin
