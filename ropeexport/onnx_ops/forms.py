"""The family of rotary ops: which tables, which pairing, one tensor or two.

An ONNX function cannot choose its nodes by an attribute, so every form is an op type of its own;
its name, inputs and attributes follow from the form, and every stage asks the form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ropeexport.onnx_ops import names

Tables = Literal["matrices", "cos_sin"]
Pairing = Literal["interleaved", "half"]

TABLE_INPUTS: dict[Tables, tuple[str, ...]] = {"matrices": ("pe",), "cos_sin": ("cos", "sin")}


@dataclass(frozen=True)
class Form:
    """One op of the family.

    Parameters
    ----------
    tables : str
        ``matrices``: one input ``pe`` (B or 1, H or 1, L, P, 2, 2), general 2x2 matrices.
        ``cos_sin``: two inputs (B or 1, L, P), a rotation ``[[cos, -sin], [sin, cos]]`` each.
    pairing : str
        ``interleaved``: elements 2i and 2i+1 are a pair.  ``half``: elements i and i + P are.
        With P < D/2 (cos_sin only) the first 2P elements are rotated and the rest passes.
    tensors : int
        2: q and k; 1: one tensor.
    """

    tables: Tables
    pairing: Pairing
    tensors: Literal[1, 2]

    @property
    def op_type(self) -> str:
        """``ApplyRope``, with what departs from it in its name."""
        return (
            names.APPLY_ROPE
            + ("CosSin" if self.tables == "cos_sin" else "")
            + ("Half" if self.pairing == "half" else "")
            + ("Single" if self.tensors == 1 else "")
        )

    @property
    def data_inputs(self) -> tuple[str, ...]:
        """Names of the rotated inputs."""
        return ("q", "k")[: self.tensors]

    @property
    def table_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that say how to rotate."""
        return TABLE_INPUTS[self.tables]

    @property
    def has_plugin(self) -> bool:
        """Say whether the TensorRT plugin serves this form; the node then carries its name."""
        return self == APPLY_ROPE

    @property
    def attributes(self) -> dict[str, str]:
        """The node's attributes."""
        plugin = names.PLUGIN_ATTRIBUTES if self.has_plugin else {}
        return plugin if self == APPLY_ROPE else plugin | {"pairing": self.pairing}

    @property
    def contract(self) -> str:
        """What the op computes, in a sentence."""
        if self == APPLY_ROPE:
            return names.CONTRACT
        data = ", ".join(f"{x} (B, H, L, D)" for x in self.data_inputs)
        return f"{self.op_type}: {data}; {_TABLES_TEXT[self.tables]}; {_PAIRS_TEXT[self.pairing]}"


_TABLES_TEXT: dict[Tables, str] = {
    "matrices": "pe float32 (B or 1, H or 1, L, D/2, 2, 2), general matrices",
    "cos_sin": "cos and sin float32 (B or 1, L, P), P at most D/2, the rest of D passes",
}
_PAIRS_TEXT: dict[Pairing, str] = {
    "interleaved": "elements 2i and 2i+1 are rotated in float32 and cast back",
    "half": "elements i and i+P are rotated in float32 and cast back",
}

APPLY_ROPE = Form("matrices", "interleaved", 2)

_TENSORS: tuple[Literal[2], Literal[1]] = (2, 1)
FORMS: dict[str, Form] = {
    form.op_type: form
    for tables in TABLE_INPUTS
    for pairing in _PAIRS_TEXT
    for tensors in _TENSORS
    for form in (Form(tables, pairing, tensors),)
}


def form_of(domain: str, op_type: str) -> Form | None:
    """Return the form of a node, or None where it is no rotary op of ropeexport."""
    return FORMS.get(op_type) if domain == names.DOMAIN else None
