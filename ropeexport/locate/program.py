"""The torch program behind an export, run node by node: a module that returns what lies between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ropeexport.locate.taps import Tap


class TappedProgram(nn.Module):
    """Runs an exported program and returns the tensors at some of its nodes.

    Parameters
    ----------
    program : ExportedProgram
        As it was lowered to ONNX.
    inputs : mapping of str to str
        The program's name of each input, and what ``forward`` takes it as.
    taps : sequence of Tap
        What it returns, in order.
    """

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        inputs: Mapping[str, str],
        taps: Sequence[Tap],
    ) -> None:
        super().__init__()
        self.program = program.module(check_guards=False)
        self._inputs = dict(inputs)
        self._taps = tuple(taps)

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors at the taps."""
        given = {node: inputs.get(name) for node, name in self._inputs.items()}
        run = _Run(self.program, {tap.program_node for tap in self._taps})
        run.run(*(given.get(str(node.target)) for node in _placeholders(self.program)))
        return tuple(_item(run.kept[tap.program_node], tap.item) for tap in self._taps)


def returned_by(program: torch.export.ExportedProgram) -> dict[str, int]:
    """Return how many tensors each node of a program returns; 0 for what is none."""
    counts = {}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, (list, tuple)):
            counts[node.name] = len(value) if all(isinstance(x, Tensor) for x in value) else 0
        else:
            counts[node.name] = int(isinstance(value, Tensor) and value.ndim > 0)
    return counts


class _Run(fx.Interpreter):
    """One run that keeps the values of some nodes."""

    def __init__(self, module: fx.GraphModule, wanted: set[str]) -> None:
        super().__init__(module)
        self.kept: dict[str, Any] = {}
        self._wanted = wanted

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._wanted:
            self.kept[n.name] = value
        return value


def _item(value: Any, item: int | None) -> Tensor:
    tensor: Tensor = value if item is None else value[item]
    return tensor


def _placeholders(module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in module.graph.nodes if node.op == "placeholder"]
