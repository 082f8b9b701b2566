"""The rotary applications of a graph: found, proven, and paired; nothing is changed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from ropeexport.dtypes import EXPORTED
from ropeexport.fusion.evaluation import Trial, UnevaluableError, evaluate
from ropeexport.fusion.movement import Movement, Twins, closure, is_read_inside, needs_of
from ropeexport.fusion.regions import (
    NotRotaryError,
    Regions,
    Rotary,
    deep_values,
    probe,
)
from ropeexport.fusion.suspects import not_judged, refusal
from ropeexport.fusion.unify import Joined
from ropeexport.manifest import Refusal
from ropeexport.operators import is_standard
from ropeexport.ops.forms import Tables, tables_for

_FLOATS = tuple(kind.ir for kind in EXPORTED.values())


@dataclass(frozen=True)
class Layout:
    """How ``x`` becomes (B, H, L, D): axes in another order, then axes of size 1 inserted.

    With a ``head_size`` the last axis of ``x`` holds heads of that size, and is cut into two first.
    ``single`` are the axes along which the tables, aligned with ``x``, have size 1 and which the
    op's do not have.  With ``per_head`` the tables differ from head to head, which only the
    matrices of ``ApplyRope`` can say.
    """

    rank: int
    order: tuple[int, ...]
    inserted: tuple[int, ...]
    single: tuple[int, ...] = ()
    per_head: bool = False
    head_size: int | None = None

    @property
    def heads(self) -> int | None:
        """The axis of ``x`` that becomes H, or None where one is inserted."""
        place = 1 - sum(axis < 1 for axis in self.inserted)
        return None if 1 in self.inserted else self.order[place]

    @property
    def length(self) -> int | None:
        """The axis of ``x`` that becomes L, or None where one is inserted."""
        place = 2 - sum(axis < 2 for axis in self.inserted)
        return None if 2 in self.inserted else self.order[place]

    @property
    def keeps_order(self) -> bool:
        """Say whether no axis moves."""
        return self.order == tuple(range(self.rank))

    @property
    def inverse_order(self) -> tuple[int, ...]:
        """The order that undoes ``order``."""
        return tuple(int(axis) for axis in np.argsort(self.order))


_BHLD = Layout(4, (0, 1, 2, 3), (), (1,))
_PER_HEAD = Layout(4, (0, 1, 2, 3), (), per_head=True)
_BLHD = Layout(4, (0, 2, 1, 3), (), (2,))
_LBHD = Layout(4, (1, 2, 0, 3), (), (1, 2))
_BLD = Layout(3, (0, 1, 2), (1,))
_LHD = Layout(3, (1, 0, 2), (0,), (1,))
_LD = Layout(2, (0, 1), (0, 1))


def layout_of(x_shape: Sequence[int], table_shapes: Sequence[Sequence[int]]) -> Layout:
    """Return the layout that the tables' broadcast axes tell.

    Raises
    ------
    NotRotaryError
        Where ``x`` has another number of axes, or the tables other sizes.
    """
    rank = len(x_shape)
    lead = np.broadcast_shapes(*(tuple(shape) for shape in table_shapes))[:-1]
    known = (1,) * (rank - 1 - len(lead)) + lead
    if rank == 2:
        return _LD
    if rank == 3:
        return _LHD if known[1] == 1 != x_shape[1] else _BLD
    if rank == 4 and known[1] == 1 and known[2] == x_shape[2]:
        return _BHLD
    if rank == 4 and known[2] == 1 and known[1] == x_shape[1]:
        return _BLHD
    if rank == 4 and known[1] == known[2] == 1 and known[0] == x_shape[0]:
        return _LBHD
    if rank == 4 and 1 not in known[1:3]:
        return _PER_HEAD
    raise NotRotaryError(f"its layout is none that the op knows: data {x_shape}, tables {known}")


@dataclass(frozen=True)
class Application:
    """One rotated tensor: from ``x`` to ``root``, casts to float32 and back left out of it.

    With a ``rotary_size`` the first so many elements of the last axis are rotated, the rest passes.
    """

    rotary: Rotary
    layout: Layout
    x: ir.Value
    root: ir.Value
    rotary_size: int | None = None


@dataclass
class Found:
    """The applications of a graph, in its order; what was refused; and what could not be judged."""

    applications: list[Application] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    not_judged: list[Refusal] = field(default_factory=list)


def find(graph: ir.Graph, trial: Trial, movement: Movement, twins: Twins) -> Found:
    """Return what a graph has; what nothing could be said of only where it looks like a rope."""
    regions, found = Regions(graph, movement), Found()
    done: set[ir.Node] = set()
    judged: set[ir.Node] = set()
    refused: set[ir.Value] = set()
    reasons: dict[ir.Node, str] = {}  # why others were not
    for seed in regions.seeds:
        products = regions.products(seed.outputs[0])
        if products & done:
            continue
        made = _at(seed, regions, trial, movement)
        if isinstance(made, Application):
            found.applications.append(_with_shared_tables(made, twins))
            done |= regions.products(made.rotary.region.root)
        elif isinstance(made, _Refused):
            if made.root not in refused:  # each row of pairs may be a sum of its own
                found.refused.append(refusal(seed, made.reason))
            refused.add(made.root)
            done |= products
        elif made is None:
            judged |= products
        else:
            reasons[seed] = str(made)
    found.not_judged = not_judged(graph, done | judged, reasons)
    return found


def _with_shared_tables(application: Application, twins: Twins) -> Application:
    rotary = application.rotary
    entries = tuple(replace(e, table=twins.first_of(e.table)) for e in rotary.entries)
    return replace(application, rotary=replace(rotary, entries=entries))


@dataclass(frozen=True)
class _Refused:
    """Why a region that mixes elements has no op, and where it ends."""

    reason: str
    root: ir.Value


def _at(
    seed: ir.Node, regions: Regions, trial: Trial, movement: Movement
) -> Application | _Refused | UnevaluableError | None:
    """Try the roots of a seed; of the reasons to refuse, the last is that of the widest region.

    An error says that nothing could be evaluated, or that there was nothing to try; None that
    what was evaluated rotates nothing.
    """
    outcome: _Refused | UnevaluableError | None = UnevaluableError(
        "no data of its result's shape is a factor of all its products"
    )
    for region in (region for root in regions.roots(seed) for region in regions.around(root)):
        try:
            rotary = probe(region, trial, movement)
            if rotary is not None:
                return _application(rotary, trial, movement)
            outcome = None if isinstance(outcome, UnevaluableError) else outcome
        except NotRotaryError as error:
            outcome = _Refused(str(error), region.root)
        except UnevaluableError as error:
            outcome = error if isinstance(outcome, UnevaluableError) else outcome
    return outcome


def _application(rotary: Rotary, trial: Trial, movement: Movement) -> Application:
    region = rotary.region
    for value in (region.x, region.root):
        if value.dtype not in _FLOATS:
            raise NotRotaryError(f"{value.name} is {value.dtype}, for which there is no op")
    tables = {e.table for e in rotary.entries}
    given = deep_values(tables, trial, movement)
    shapes = [e.of(evaluate(e.table, given, trial, {})).shape for e in rotary.entries]
    layout = layout_of(trial.shape(region.x), shapes)
    x, root = _without_casts(region.x, region.root)
    application = Application(rotary, layout, x, root)
    in_part = True in tables_of(application).contracts and rotary.pairing == rotary.result
    return _with_rest(application, trial) if in_part else application


def tables_of(application: Application) -> Tables:
    """Return which tables an application's op takes."""
    return tables_for(rotations=application.rotary.is_rotation, by_head=application.layout.per_head)


def _without_casts(x: ir.Value, root: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Widen to the casts around a rotation in float32: the op has them inside."""
    before, after = x.producer(), root.consumers()
    narrow = x
    if before is not None and is_standard(before, "Cast") and x.dtype == root.dtype:
        narrow = before.inputs[0] or x
    if narrow.dtype not in _FLOATS or root.is_graph_output() or is_read_inside(root):
        return x, root
    casts_back = [
        is_standard(node, "Cast") and node.outputs[0].dtype == narrow.dtype for node in after
    ]
    return (narrow, after[0].outputs[0]) if casts_back == [True] else (x, root)


def _with_rest(application: Application, trial: Trial) -> Application:
    """Widen to the whole head where its first part is rotated and the rest is appended."""
    x, root = application.x, application.root
    cut, joint = x.producer(), root.consumers()
    if cut is None or not is_standard(cut, "Slice", "Split") or root.is_graph_output():
        return application
    whole = cut.inputs[0]
    if whole is None or len(joint) != 1 or is_read_inside(root) or not _appends(joint[0], root):
        return application
    rest, size = joint[0].inputs[1], trial.shape(x)[-1]
    assert rest is not None  # a Concat has no empty inputs
    try:
        values = np.random.default_rng(3).standard_normal(trial.shape(whole))
        part, passed = (evaluate(value, {whole: values}, trial, {}) for value in (x, rest))
    except UnevaluableError:
        return application
    first, others = values[..., :size], values[..., size:]
    if not (np.array_equal(part, first) and np.array_equal(passed, others)):
        return application
    return replace(application, x=whole, root=joint[0].outputs[0], rotary_size=size)


def _appends(node: ir.Node, first: ir.Value) -> bool:
    """Say whether a node joins a value and another, in this order, along the last axis."""
    if not is_standard(node, "Concat") or len(node.inputs) != 2 or node.inputs[0] is not first:
        return False
    axis, shape = node.attributes["axis"].as_int(), first.shape
    return axis == -1 or (shape is not None and axis == len(shape) - 1)


def pair_up(
    found: list[Application], graph: ir.Graph, joined: Joined
) -> list[tuple[Application, ...]]:
    """Group q and k of one attention, for one op: neighbours of which neither needs the other.

    They share tables, pairing and layout.
    """
    places: dict[ir.Node | None, int] = {node: place for place, node in enumerate(graph)}
    groups: list[tuple[Application, ...]] = []
    for k in found:
        q = groups[-1][0] if groups and len(groups[-1]) == 1 else None
        if q and _likeness(q, joined) == _likeness(k, joined) and not _needs(k.x, q.root, places):
            groups[-1] = (q, k)
        else:
            groups.append((k,))
    return groups


def _likeness(a: Application, joined: Joined) -> tuple[object, ...]:
    """Return what has to agree: of sizes all but the heads; they too of tables by head."""
    rotary, shape = a.rotary, a.x.shape
    assert shape is not None  # it was evaluated at its shape
    head = None if a.layout.per_head else a.layout.heads
    rest = [joined.size_of(a.x, axis) for axis in range(len(shape)) if axis != head]
    rotation = rotary.pairing, rotary.result, rotary.entries, rotary.is_rotation
    return rotation, a.rotary_size, a.layout, a.x.dtype, rest


def _needs(value: ir.Value, other: ir.Value, places: dict[ir.Node | None, int]) -> bool:
    """Say whether a value is computed from another; nodes before the other's are not walked."""
    start = other.producer()
    assert start is not None  # a root is computed

    def needed_for(x: ir.Value) -> list[ir.Value]:
        return needs_of(x) if places.get(x.producer(), -1) > places[start] else []

    return any(x.producer() is start for x in closure([value], needed_for))
