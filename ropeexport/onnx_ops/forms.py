"""The family of rotary ops: which tables and pairing, of a head or a part, one tensor or two.

An ONNX function cannot choose its nodes by an attribute, so every form is an op type of its own;
its name, inputs and attributes follow from the form, and every stage asks the form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ropeexport.onnx_ops import names

Tables = Literal["matrices", "cos_sin"]
Pairing = Literal["interleaved", "half"]

ROTARY_SIZE = "rotary_embedding_dim"  # the name that RotaryEmbedding has for it

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
    tensors : int
        2: q and k; 1: one tensor.
    partial : bool
        P < D/2 (cos_sin only): the first 2P elements are rotated and the rest passes.
    """

    tables: Tables
    pairing: Pairing
    tensors: Literal[1, 2]
    partial: bool = False

    @property
    def op_type(self) -> str:
        """``ApplyRope``, with what departs from it in its name."""
        return (
            names.APPLY_ROPE
            + ("CosSin" if self.tables == "cos_sin" else "")
            + ("Half" if self.pairing == "half" else "")
            + ("Partial" if self.partial else "")
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
    def attributes(self) -> dict[str, str]:
        """The attributes that every node of this form has, by which TensorRT finds its plugin."""
        pairing = {} if self == APPLY_ROPE else {"pairing": self.pairing}
        return names.PLUGIN_ATTRIBUTES | pairing

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """The names of all attributes: of a part of a head, its size, 2P, too."""
        return (*self.attributes, *([ROTARY_SIZE] if self.partial else []))

    @property
    def contract(self) -> str:
        """What the op computes, in a sentence."""
        if self == APPLY_ROPE:
            return names.CONTRACT
        data = ", ".join(f"{x} (B, H, L, D)" for x in self.data_inputs)
        pairs = _PAIRS_TEXT[self.pairing]
        return f"{self.op_type}: {data}; {_TABLES_TEXT[self.tables, self.partial]}; {pairs}"


_TABLES_TEXT: dict[tuple[Tables, bool], str] = {
    ("matrices", False): "pe float32 (B or 1, H or 1, L, D/2, 2, 2), general matrices",
    ("cos_sin", False): "cos and sin float32 (B or 1, L, P), P = D/2",
    ("cos_sin", True): "cos and sin float32 (B or 1, L, P), P at most D/2, the rest of D passes",
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
    for partial in (False, True)[: 2 if tables == "cos_sin" else 1]
    for form in (Form(tables, pairing, tensors, partial),)
}


def form_of(domain: str, op_type: str) -> Form | None:
    """Return the form of a node, or None where it is no rotary op of ropeexport."""
    return FORMS.get(op_type) if domain == names.DOMAIN else None
