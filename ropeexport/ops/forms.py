"""The family of rotary ops: which tables and pairing, of a head or a part, normed first or not.

An ONNX function cannot choose its nodes by an attribute, so every form is an op type of its own;
its name, inputs, attributes, body, NumPy meaning and plugin follow from a row of ``TABLES`` and a
row of ``PAIRINGS``.  No stage asks a row for its name: what it must know is a field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from ropeexport.ops import names

ROTARY_SIZE = "rotary_embedding_dim"  # the name that RotaryEmbedding has for it
# what a node whose data is normed first says of that: each name as RMSNormalization and Transpose
# have it
EPSILON, AXIS, PERM = "epsilon", "axis", "perm"
NORM_ATTRIBUTES = {EPSILON: "float", AXIS: "int", PERM: "ints"}

T = TypeVar("T")


@dataclass(frozen=True)
class Tables:
    """What says how to rotate.

    In ONNX text each input is in float32 with ``_wide`` behind its name; ``m00`` to ``m11`` are the
    entries of the matrices, each (B or 1, H or 1, L, P), as what is rotated by products has them;
    ``cos_1`` and ``sin_1``, (B or 1, L, P), are what ``RotaryEmbedding`` takes.

    Parameters
    ----------
    name : str
        By which a form has it.
    suffix : str
        What it adds to an op's name.
    inputs : dict
        Input to the entries it is made of, by their places in (m00, m01, m10, m11): one of them as
        it is, or all four as 2x2 matrices.
    contracts : dict
        The inputs' shapes in words, of a whole head (False) and of a part of it (True), where a
        part can be rotated.
    entries : callable
        The inputs' arrays to m00, m01, m10, m11, which broadcast to (B, H, L, P).
    entry_nodes, rotary_nodes : str
        ONNX text that makes ``m00`` to ``m11``, and ``cos_1`` and ``sin_1``.
    decision_nodes : str
        ONNX text that makes ``use_rotary`` of the entries: whether ``RotaryEmbedding`` computes the
        same; empty where every input is a rotation by contract.
    by_head : bool
        Whether they have an axis for heads.
    role : str
        What an input is for those who draw inputs.
    plugin : str or None
        ``Form::tables`` of the plugin, in C++; None: no plugin takes them.
    """

    name: str
    suffix: str
    inputs: Mapping[str, tuple[int, ...]]
    contracts: Mapping[bool, str]
    entries: Callable[..., tuple[Any, ...]]
    entry_nodes: str
    rotary_nodes: str
    decision_nodes: str
    by_head: bool
    role: Literal["data", "matrices"]
    plugin: str | None

    @property
    def rotations_only(self) -> bool:
        """Whether every input is a rotation by contract."""
        return not self.decision_nodes


@dataclass(frozen=True)
class Pairing:
    """Which two elements of the last axis are rotated together.

    In ONNX text ``{x}`` stands for a rotated input, and ``{x}_wide`` for it in float32.

    Parameters
    ----------
    name : str
        By which a form has it, and the value of the attribute ``pairing``.
    suffix : str
        What it adds to an op's name.
    contract : str
        The pairs in words.
    slices : callable
        A number of pairs to the first and the second elements of all, slices of the last axis.
    axes : tuple of int
        The last axis reshaped into pairs and their two elements, in their order; -1: the pairs.
    constants : str
        ONNX text: what the two others share.
    split, join : str
        ONNX text: ``{x}_wide`` (B, H, L, 2P) to ``{x}_0`` and ``{x}_1``, each (B, H, L, P), and
        ``{x}_row0`` and ``{x}_row1`` to ``{x}_rotated``, of the shape of ``{x}``.
    interleaved : int or None
        Attribute of the ``RotaryEmbedding`` that has these pairs; None: it knows no such pairs.
    plugin : str or None
        ``Form::halves`` of the plugin, in C++; None: no plugin has these pairs.
    """

    name: str
    suffix: str
    contract: str
    slices: Callable[[int], tuple[slice, slice]]
    axes: tuple[int, int]
    constants: str
    split: str
    join: str
    interleaved: int | None
    plugin: str | None


# pe (Bp, Hp, L, P, 2, 2) to its four entries, each (Bp, Hp, L, P).  Not by Gather: what
# onnxruntime's offline optimiser makes of several, it cannot load.
_MATRIX_ENTRIES = """
  rows = Constant<value_ints = [0, 0, 0, 0, 4]>()
  entries = Reshape(pe_wide, rows)
  m00_1, m01_1, m10_1, m11_1 = Split<axis = -1, num_outputs = 4>(entries)
  entry_axis = Constant<value_ints = [-1]>()
  m00 = Squeeze(m00_1, entry_axis)
  m01 = Squeeze(m01_1, entry_axis)
  m10 = Squeeze(m10_1, entry_axis)
  m11 = Squeeze(m11_1, entry_axis)
"""
_MATRIX_ROTARY = """
  zero = Constant<value_int = 0>()
  cos_1 = Gather<axis = 1>(m00, zero)
  sin_1 = Gather<axis = 1>(m10, zero)
"""
# Every matrix a rotation, bit for bit, and one head axis for all heads.  NaN compares unequal and
# so takes the general branch, which carries it to the output.
_MATRIX_DECISION = """
  minus_m01 = Neg(m01)
  diagonal = Equal(m00, m11)
  antidiagonal = Equal(m10, minus_m01)
  rotation = And(diagonal, antidiagonal)
  rotation_bits = Cast<to = 6>(rotation)
  all_rotations_bit = ReduceMin<keepdims = 0>(rotation_bits)
  all_rotations = Cast<to = 9>(all_rotations_bit)
  pe_heads_1d = Shape<start = 1, end = 2>(pe)
  pe_heads = Squeeze(pe_heads_1d)
  one = Constant<value_int = 1>()
  shared_by_heads = Equal(pe_heads, one)
  use_rotary = And(all_rotations, shared_by_heads)
"""  # to int32, and back to bool

# cos and sin (Bp, L, P) to the same four entries, each (Bp, 1, L, P)
_COS_SIN_ENTRIES = """
  head_axis = Constant<value_ints = [1]>()
  m00 = Unsqueeze(cos_wide, head_axis)
  m10 = Unsqueeze(sin_wide, head_axis)
  m01 = Neg(m10)
  m11 = Identity(m00)
"""
_COS_SIN_ROTARY = """
  cos_1 = Identity(cos_wide)
  sin_1 = Identity(sin_wide)
"""


def _entries_of_matrices(pe: Any) -> tuple[Any, ...]:
    return pe[..., 0, 0], pe[..., 0, 1], pe[..., 1, 0], pe[..., 1, 1]


def _entries_of_cos_sin(cos: Any, sin: Any) -> tuple[Any, ...]:
    cos, sin = cos[:, None], sin[:, None]
    return cos, -sin, sin, cos


# elements 2i and 2i+1 as an axis of their own
_NEIGHBOURS = """
  pairs = Constant<value_ints = [0, 0, 0, -1, 2]>()
  pair_axis = Constant<value_ints = [-1]>()
"""
_SPLIT_NEIGHBOURS = """
  {x}_pairs = Reshape({x}_wide, pairs)
  {x}_0_1, {x}_1_1 = Split<axis = -1, num_outputs = 2>({x}_pairs)
  {x}_0 = Squeeze({x}_0_1, pair_axis)
  {x}_1 = Squeeze({x}_1_1, pair_axis)
"""
_JOIN_NEIGHBOURS = """
  {x}_col0 = Unsqueeze({x}_row0, pair_axis)
  {x}_col1 = Unsqueeze({x}_row1, pair_axis)
  {x}_stacked = Concat<axis = -1>({x}_col0, {x}_col1)
  {x}_shape = Shape({x})
  {x}_rotated = Reshape({x}_stacked, {x}_shape)
"""

_TABLES = (
    Tables(
        name="matrices",
        suffix="",
        inputs={"pe": (0, 1, 2, 3)},
        contracts={False: "pe float32 (B or 1, H or 1, L, D/2, 2, 2), general matrices"},
        entries=_entries_of_matrices,
        entry_nodes=_MATRIX_ENTRIES,
        rotary_nodes=_MATRIX_ROTARY,
        decision_nodes=_MATRIX_DECISION,
        by_head=True,
        role="matrices",
        plugin="false",
    ),
    Tables(
        name="cos_sin",
        suffix="CosSin",
        inputs={"cos": (0,), "sin": (2,)},
        contracts={
            False: "cos and sin float32 (B or 1, L, P), P = D/2",
            True: "cos and sin float32 (B or 1, L, P), P at most D/2, the rest of D passes",
        },
        entries=_entries_of_cos_sin,
        entry_nodes=_COS_SIN_ENTRIES,
        rotary_nodes=_COS_SIN_ROTARY,
        decision_nodes="",
        by_head=False,
        role="data",
        plugin="true",
    ),
)
_PAIRINGS = (
    Pairing(
        name="interleaved",
        suffix="",
        contract="elements 2i and 2i+1 are rotated in float32 and cast back",
        slices=lambda pairs: (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)),
        axes=(-1, 2),
        constants=_NEIGHBOURS,
        split=_SPLIT_NEIGHBOURS,
        join=_JOIN_NEIGHBOURS,
        interleaved=1,
        plugin="false",
    ),
    Pairing(
        name="half",
        suffix="Half",
        contract="elements i and i+P are rotated in float32 and cast back",
        slices=lambda pairs: (slice(0, pairs), slice(pairs, 2 * pairs)),
        axes=(2, -1),
        constants="",
        split="\n  {x}_0, {x}_1 = Split<axis = -1, num_outputs = 2>({x}_wide)\n",
        join="\n  {x}_rotated = Concat<axis = -1>({x}_row0, {x}_row1)\n",
        interleaved=0,
        plugin="true",
    ),
)
TABLES = {row.name: row for row in _TABLES}
PAIRINGS = {row.name: row for row in _PAIRINGS}


@dataclass(frozen=True)
class Form:
    """One op of the family.

    Parameters
    ----------
    tables, pairing : str
        Rows of ``TABLES`` and ``PAIRINGS``.
    tensors : int
        2: q and k; 1: one tensor.
    partial : bool
        P < D/2: the first 2P elements are rotated and the rest passes.
    normed : bool
        The data is divided by its root mean square, scaled and brought into (B, H, L, D) first.
    """

    tables: str
    pairing: str
    tensors: Literal[1, 2]
    partial: bool = False
    normed: bool = False

    @property
    def coefficients(self) -> Tables:
        """The row of what says how to rotate."""
        return TABLES[self.tables]

    @property
    def pairs(self) -> Pairing:
        """The row of what is rotated together."""
        return PAIRINGS[self.pairing]

    @property
    def suffix(self) -> str:
        """What departs from ``ApplyRope``, as its name has it."""
        size, data = "Partial" if self.partial else "", "Single" if self.tensors == 1 else ""
        return self.coefficients.suffix + self.pairs.suffix + size + data

    @property
    def op_type(self) -> str:
        """``ApplyRope`` or ``NormRope``, with what departs from it in its name."""
        return (names.NORM_ROPE if self.normed else names.APPLY_ROPE) + self.suffix

    @property
    def rotation(self) -> Form:
        """The form that rotates in the same way what is normed already."""
        return replace(self, normed=False)

    @property
    def data_inputs(self) -> tuple[str, ...]:
        """Names of the rotated inputs."""
        return ("q", "k")[: self.tensors]

    @property
    def table_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that say how to rotate."""
        return tuple(self.coefficients.inputs)

    @property
    def scale_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that scale what is normed."""
        return tuple(f"{x}_scale" for x in self.data_inputs) if self.normed else ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all inputs: the data, the tables, the scales."""
        return (*self.data_inputs, *self.table_inputs, *self.scale_inputs)

    def tables_of(self, inputs: Sequence[T]) -> tuple[T, ...]:
        """Return those of a node's inputs that say how to rotate."""
        return tuple(inputs[self.tensors : self.tensors + len(self.table_inputs)])

    def scales_of(self, inputs: Sequence[T]) -> tuple[T, ...]:
        """Return those of a node's inputs that scale what is normed."""
        return tuple(inputs[self.tensors + len(self.table_inputs) :])

    @property
    def has_plugin(self) -> bool:
        """Whether a TensorRT plugin computes it."""
        return None not in (self.coefficients.plugin, self.pairs.plugin)

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes that every node of this form has, by which TensorRT finds its plugin."""
        pairing = {} if self == APPLY_ROPE else {"pairing": self.pairing}
        return (names.PLUGIN_ATTRIBUTES if self.has_plugin else {}) | pairing

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """The names of all attributes: of a part of a head, its size, 2P, too."""
        return (*self.attributes, *self.options)

    @property
    def options(self) -> dict[str, str]:
        """The attributes whose value is the node's own, and their types."""
        part = {ROTARY_SIZE: "int"} if self.partial else {}
        return part | (NORM_ATTRIBUTES if self.normed else {})

    @property
    def contract(self) -> str:
        """What the op computes, in a sentence."""
        if self == APPLY_ROPE:
            return _CONTRACT
        data = ", ".join(f"{x} {_NORMED if self.normed else _ROTATED}" for x in self.data_inputs)
        tables = self.coefficients.contracts[self.partial]
        first = f" {_NORM}, then" if self.normed else ""
        return f"{self.op_type}: {data}; {tables};{first} {self.pairs.contract}"


_ROTATED = "(B, H, L, D)"
_NORMED = "(B, H, L, D) with perm [0, 1, 2, 3] or (B, L, H, D) with perm [0, 2, 1, 3]"
_NORM = (
    "x / sqrt(mean(x * x) + epsilon) in float32, over the axes from axis on (-1: a head, scale "
    "(D,); -2: all heads, scale (H, D)), rounded to the type of the scale, the data's or float32, "
    "times the scale, rounded to the data's type, transposed by perm"
)
_CONTRACT = (
    "ApplyRope(q, k, pe) -> (q', k'): q (B, Hq, L, D) and k (B, Hk, L, D) of one float type; "
    "pe float32 (B or 1, H or 1, L, D/2, 2, 2), general matrices; each adjacent pair of the last "
    "axis is multiplied by its matrix in float32 and cast back."
)
APPLY_ROPE = Form("matrices", "interleaved", 2)

_TENSORS: tuple[Literal[2], Literal[1]] = (2, 1)
FORMS: dict[str, Form] = {
    form.op_type: form
    for tables in _TABLES
    for pairing in _PAIRINGS
    for tensors in _TENSORS
    for partial in tables.contracts
    for form in (Form(tables.name, pairing.name, tensors, partial),)
}
# what norms first: not of matrices and halves, which no model has
FORMS |= {
    form.op_type: form
    for rotation in list(FORMS.values())
    if rotation.tables == "cos_sin" or rotation.pairing == APPLY_ROPE.pairing
    for form in (replace(rotation, normed=True),)
}

# those that a TensorRT plugin computes; the plugin's own list is made of them by scripts/forms.py
PLUGIN_FORMS = {name: form for name, form in FORMS.items() if form.has_plugin}


def form_of(domain: str, op_type: str) -> Form | None:
    """Return the form of a node, or None where it is no rotary op of ropeexport."""
    return FORMS.get(op_type) if domain == names.DOMAIN else None


def tables_for(*, rotations: bool, by_head: bool) -> Tables:
    """Return the tables that can say a rotary application; of two, those of rotations alone.

    Parameters
    ----------
    rotations : bool
        Whether every matrix is a rotation.
    by_head : bool
        Whether matrices differ from head to head.
    """
    able = (row for row in _TABLES if rotations >= row.rotations_only and row.by_head >= by_head)
    return max(able, key=lambda row: row.rotations_only)


def pairing_of_rotary(interleaved: int) -> str:
    """Return the pairing that ``RotaryEmbedding`` has with an attribute ``interleaved``."""
    return next(row.name for row in _PAIRINGS if row.interleaved == interleaved)
