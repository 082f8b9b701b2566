"""Compare what was rewritten with what it was made from, in float64, on random numbers.

A region is evaluated from the data that is rotated and from the model's inputs, so the arithmetic
of positions is inside.  What cannot be evaluated on the way (a weight, a branch, another's
operator) is cut: random numbers stand for it, the same on both sides.

Tolerance.  Casts among floating types are left out on both sides, but for those to half types on
the way to an angle, which make another position of a long one; and the tables of angles are exact
to 2^-36 in float64.  So two things alone may differ.  Frequencies that are stored in float32
may be replaced by the exact ones of the same base, each within 2^-23 of it: an angle of at most A
radians moves by A * 2^-23, and a rotated element by its size times that, once by the cosine and
once by the sine.  And float64 rounds.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ropeexport.fusion.evaluation import (
    EVEN_SIZES,
    ODD_SIZES,
    Array,
    Trial,
    UnevaluableError,
    evaluate,
    has_meaning,
    static_shape,
)
from ropeexport.fusion.movement import closure, graphs_of, inputs_of
from ropeexport.fusion.rewrite import Region
from ropeexport.operators import is_standard
from ropeexport.ops.registry import op_of

# no two axes alike; then all alike, for sizes that have to agree; then odd ones
_SIZES: tuple[tuple[int, ...], ...] = (EVEN_SIZES, (4,), ODD_SIZES)
# integers are drawn below the largest of these at which the region can be evaluated (a table of the
# model's own may have few rows), and then about zero, with fractions, where the tolerance is narrow
_LIMITS = (1 << 17, 1 << 10, 1 << 6, 8, 2)
_SMALL = 16
_MOST_CUTS = 16
_RELATIVE = 2.0 * 2.0**-23  # of an angle: what exact frequencies may change, in cosine and sine
_ROUNDING = 2.0**-33
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}


@dataclass
class Outcome:
    """What was found of one region.

    Parameters
    ----------
    worst : float
        The largest error as a share of what is allowed; infinite for another shape or NaN.
    text : str
        The error and what is allowed, where ``worst`` is found.
    shapes : list of dict
        The sizes at which the region was compared.
    largest : int
        The largest integer that was drawn.
    failure : UnevaluableError or None
        Why it could not be compared, the last reason.
    """

    worst: float = 0.0
    text: str = ""
    shapes: list[dict[str, int]] = field(default_factory=list)
    largest: int = 0
    failure: UnevaluableError | None = None

    @property
    def reason(self) -> str | None:
        """Why the rewrite must not stand; None where it agrees."""
        if not self.shapes:
            return f"cannot be compared with the graph as it was: {self.failure}"
        return None if self.worst <= 1.0 else f"departs from the graph as it was: {self.text}"


def compare_regions(
    before: ir.Model, after: ir.Model, regions: Sequence[Region]
) -> dict[str, Outcome]:
    """Compare each region of a rewritten model with the model as it was; by the region's name.

    Parameters
    ----------
    before, after : ir.Model
        Values that were not rewritten have their names in both.
    regions : sequence of Region
        Of ``after``.
    """
    sides = _Sides(before, after)
    for _ in range(_MOST_CUTS):
        outcomes = {region.name: Outcome() for region in regions}
        for sizes in _SIZES:
            _compare_at(sides, sizes, regions, outcomes)
        failures = [o.failure for o in outcomes.values() if not o.shapes and o.failure]
        if not sides.cut(failure.value for failure in failures):
            break
    return outcomes


class _Sides:
    """Both graphs, and the values of the former at which its regions begin."""

    def __init__(self, before: ir.Model, after: ir.Model) -> None:
        self.before, self.after = before.graph, after.graph
        self.opset = before.opset_imports[""]
        self.old = _by_name(self.before)
        self.new = _by_name(self.after)
        self.cuts: set[str] = set()
        self.angles = _leading_to_angles(self.before) | _leading_to_angles(self.after)

    def cut(self, values: Iterable[ir.Value | None]) -> bool:
        """Begin at values that could not be computed; say whether any of them is a new one."""
        found = {str(v.name) for v in values if v is not None and v.name in self.old} - self.cuts
        self.cuts |= found
        return bool(found)

    def is_cut(self, value: ir.Value) -> bool:
        """Say whether random numbers stand for a value: of an input, or what no node can give."""
        node = value.producer()
        if node is None or value.name in self.cuts:
            return True
        is_plain = has_meaning(node) and not graphs_of(node)
        return not is_plain or is_standard(node, *_RANDOM)


def _leading_to_angles(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that cosines, sines and tables of angles are computed from."""
    angles = (x for node in graph for x in _angles(node) if x is not None)
    return set(closure(angles, inputs_of))


def _angles(node: ir.Node) -> Sequence[ir.Value | None]:
    """Return the inputs of a node that are angles, or positions of which it makes them."""
    op = op_of(node.domain, node.op_type)
    if op is not None:
        return [node.inputs[place] for place in op.places("positions")]
    return node.inputs[:1] if is_standard(node, "Cos", "Sin") else ()


def _by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    computed = (value for node in graph for value in node.outputs)
    values = (*graph.inputs, *graph.initializers.values(), *computed)
    return {value.name: value for value in values if value.name}


def _compare_at(
    sides: _Sides, sizes: Sequence[int], regions: Sequence[Region], outcomes: dict[str, Outcome]
) -> None:
    """Compare the regions at sizes, with large numbers as far as each can take them, and small."""
    trial = Trial(sides.before, sides.opset, sizes, sides.angles)
    waiting = list(regions)
    for limit in _LIMITS:
        waiting = _compare(sides, trial, limit, waiting, outcomes)
    compared = [r for r in regions if r not in waiting and outcomes[r.name].largest > _SMALL]
    _compare(sides, trial, _SMALL, compared, outcomes, signed_fractions=True)


def _compare(
    sides: _Sides,
    trial: Trial,
    limit: int,
    regions: Sequence[Region],
    outcomes: dict[str, Outcome],
    signed_fractions: bool = False,
) -> list[Region]:
    """Compare regions on one draw; return those that could not be evaluated."""
    draw = _Draw(sides, trial, limit, signed_fractions)
    failed = []
    for region in regions:
        outcome = outcomes[region.name]
        try:
            pairs = list(draw.results(region))
        except UnevaluableError as error:
            outcome.failure = error
            failed.append(region)
            continue
        outcome.shapes.append(dict(trial.symbols))
        outcome.largest = max(outcome.largest, draw.largest)
        for old, new in pairs:
            _note(old, new, draw.largest_angle, outcome)
    return failed


@dataclass
class _Draw:
    """Random numbers for both sides, and what was computed of them, which regions share."""

    sides: _Sides
    trial: Trial
    limit: int
    signed_fractions: bool
    largest: int = 0
    largest_angle: float = 0.0  # argument of a cosine or sine so far, in radians
    _given: dict[str, Array] = field(default_factory=dict)
    _old: dict[ir.Value, Array] = field(default_factory=dict)
    _new: dict[ir.Value, Array] = field(default_factory=dict)

    def results(self, region: Region) -> Iterator[tuple[Array, Array]]:
        """Yield each result of a region, as it was and as it is."""
        old, new = self.sides.old, self.sides.new
        own = {name for name, _ in region.results}
        data = {name: self._number(name, data=True) for name, _ in region.data}
        given = data | {name: self._number(name) for name in self._beginnings(own, data)}
        given_old = {old[name]: x for name, x in given.items()}
        given_new = {new[name]: x for name, x in given.items() if name in new}
        given_new |= {value: data[name] for name, value in region.data}
        try:
            for name, value in region.results:
                was = evaluate(old[name], given_old, self.trial, self._old)
                yield was, evaluate(value, given_new, self.trial, self._new)
        finally:
            self.largest_angle = max(self.largest_angle, self._largest_angle())
            _forget(self._old, {old[name] for name in data})
            _forget(self._new, {value for _, value in region.data})

    def _beginnings(self, results: Iterable[str], data: Container[str]) -> list[str]:
        """Return the values, besides ``data``, that ``results`` are computed from."""

        def is_given(value: ir.Value) -> bool:
            is_cut = value.name in self.sides.cuts  # a constant that is too large
            return value.name in data or (value.const_value is not None and not is_cut)

        def made_of(value: ir.Value) -> Sequence[ir.Value]:
            node = value.producer()
            if node is None or is_given(value) or self.sides.is_cut(value):
                return ()
            return inputs_of(value) if static_shape(node, self.trial) is None else ()

        reached = closure((self.sides.old[name] for name in results), made_of)
        return [str(x.name) for x in reached if not is_given(x) and self.sides.is_cut(x)]

    def _largest_angle(self) -> float:
        """Return the largest that is finite: an infinite one would allow any difference."""
        angles = [
            np.abs(self._old[x][np.isfinite(self._old[x])]).max(initial=0.0)
            for value in self._old
            if (node := value.producer()) is not None and is_standard(node, "Cos", "Sin")
            for x in node.inputs
            if x in self._old
        ]
        return float(max(angles, default=0.0))

    def _number(self, name: str, data: bool = False) -> Array:
        if name not in self._given:
            value = self.sides.old[name]
            rng = np.random.default_rng([zlib.crc32(name.encode()), self.limit])
            shape = self.trial.shape(value)
            made = rng.standard_normal(shape) if data else self._drawn(value, shape, rng)
            self._given[name] = made
        return self._given[name]

    def _drawn(self, value: ir.Value, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Return numbers that may be positions."""
        if value.dtype is None:
            raise UnevaluableError(f"the type of {value.name} is not known", value)
        if value.dtype == ir.DataType.BOOL:
            return rng.integers(0, 2, shape).astype(bool)
        is_float, limit = value.dtype.is_floating_point(), self.limit
        if not is_float:
            limit = min(limit, int(ml_dtypes.iinfo(value.dtype.numpy()).max))
        signed = self.signed_fractions and (is_float or value.dtype.is_signed())
        numbers = rng.uniform(-limit if signed else 0.0, limit, shape)
        self.largest = max(self.largest, int(numbers.max(initial=0.0)))
        whole = numbers if is_float and self.signed_fractions else np.floor(numbers)
        return whole if is_float else whole.astype(value.dtype.numpy())


def _forget(memo: dict[ir.Value, Array], data: set[ir.Value]) -> None:
    """Drop what was computed of data: no other region reads it, and a model has many."""
    made = set(data)
    for value in list(memo):  # in the order in which they were computed
        node = value.producer()
        is_shape = node is not None and is_standard(node, "Shape", "Size")
        if not is_shape and any(x in made for x in inputs_of(value)):
            made.add(value)
            del memo[value]


def _note(old: Array, new: Array, largest_angle: float, outcome: Outcome) -> None:
    """Add a pair of results to an outcome; NaN is equal to NaN."""
    if old.shape != new.shape:
        outcome.worst = math.inf
        outcome.text = f"its shape is {new.shape}, not {old.shape}"
        return
    differs = ~((old == new) | (np.isnan(old) & np.isnan(new)))
    errors = np.nan_to_num(np.abs(old - new)[differs], nan=math.inf)
    error = float(errors.max(initial=0.0))
    size = float(np.abs(old[np.isfinite(old)]).max(initial=0.0))
    allowed = size * (_RELATIVE * largest_angle + _ROUNDING)
    share = error / allowed if allowed else (0.0 if error == 0.0 else math.inf)
    if share >= outcome.worst:
        outcome.worst = share
        outcome.text = f"an element of up to {size:.3g} differs by {error:.3g}"
