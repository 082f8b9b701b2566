"""A tensor that two programs have in common, and the line of code that made it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ropeexport.manifest import TensorSpec

STACK = "pkg.torch.onnx.stack_trace"  # where torch's exporter keeps it in a node's metadata
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n\s*(.*)')


@dataclass(frozen=True)
class Tap:
    """A tensor with two homes.

    Parameters
    ----------
    spec : TensorSpec
        Its name in the ONNX graph, its type and shape as exported.
    program_node : str
        The node of the torch program that makes it; empty where the other home is a file.
    item : int or None
        Which of the values that this node returns; None where it returns one.
    source : str
        The line of torch code that made it, ``file:line: code``; empty where it is not known.
    """

    spec: TensorSpec
    program_node: str = ""
    item: int | None = None
    source: str = ""

    @property
    def tensor(self) -> str:
        """The name in the ONNX graph."""
        return self.spec.name


def source_line(stack: str) -> str:
    """Return the innermost line of torch code in a stack trace, as ``file:line: code``."""
    frames = _FRAME.findall(stack)
    if not frames:
        return ""
    file, line, _, code = frames[-1]
    return f"{file}:{line}: {code.strip()}"
