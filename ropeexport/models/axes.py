"""The sizes that dynamic axes are meant for: as given, else a range that a user would expect.

An axis that stands first in every input that has it, and is not named as a length, is a batch: 1
to 8.  Every other one is a length: 1 to what the module's config allows (:data:`LIMITS`), else to
4096, which lengths on several axes of one input share.  A range holds the example's size twice,
unless a config allows less, and is cut where the module itself takes no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ropeexport.axes import Sum, names_of, substituted, sum_of
from ropeexport.errors import AxisRangeError, UsageError
from ropeexport.given import whole
from ropeexport.manifest import Axis, TensorSpec

if TYPE_CHECKING:
    from torch import nn

    from ropeexport.models.example import Example

# names of a config's field that says how long a sequence may be, the first that is there
LIMITS = (
    "max_position_embeddings", "max_sequence_length", "max_seq_len", "max_seq_length",
    "n_positions", "block_size", "frames_per_clip",
)  # fmt: skip
_CONFIGS = ("config", "text_config")
_LENGTH_WORDS = ("length", "seq", "token", "patch")
_BATCH = 8
_LENGTH = 4096
_BEST_LENGTH = 512  # an example is often shorter, for it is there to be traced
_MOST_CHANGES = 12

Shape = Sequence[int | str]
Given = Axis | tuple[int, int, int]
Made = TypeVar("Made")


def default_axes(
    shapes: Mapping[str, Shape], sizes: Mapping[str, int], longest: int | None = None
) -> dict[str, Axis]:
    """Return a range for each dynamic axis.

    Parameters
    ----------
    shapes : mapping
        Of each input; a dynamic axis by its name.
    sizes : mapping
        Of the axes in an example, where there is one.
    longest : int, optional
        The length that a config allows.
    """
    names = names_of(dim for shape in shapes.values() for dim in shape)
    batches = {name for name in names if _is_batch(name, shapes)}
    lengths = [[set(names_of([dim])) - batches for dim in shape] for shape in shapes.values()]
    found = {}
    for name in names:
        size = sizes.get(name, 1)
        if name in batches:
            most = max(_BATCH, 2 * size)
            found[name] = Axis(min=1, opt=max(1, size), max=most, chosen_by="default")
        else:
            beside = max(sum(map(bool, dims)) for dims in lengths if any(name in d for d in dims))
            found[name] = _length(size, beside, longest)
    return found


def _is_batch(name: str, shapes: Mapping[str, Shape]) -> bool:
    if any(word in name.lower() for word in _LENGTH_WORDS):
        return False
    return all(name not in names_of(shape[1:]) for shape in shapes.values())


def _length(size: int, beside: int, longest: int | None) -> Axis:
    """Return the range of one of so many lengths that stand beside each other."""
    if longest is not None and beside == 1:
        top = max(longest, size)
        return Axis(min=1, opt=max(size, min(_BEST_LENGTH, top)), max=top, chosen_by="config")
    top = max(round(_LENGTH ** (1 / beside)), 2 * size)
    best = max(round(_BEST_LENGTH ** (1 / beside)), size)
    return Axis(min=1, opt=best, max=top, chosen_by="default")


def longest_of(module: nn.Module) -> int | None:
    """Return the length that the config of a module, or of the first part with one, allows."""
    for part in module.modules():
        config = getattr(part, _CONFIGS[0], None)
        for place in (config, _field(config, _CONFIGS[1])):
            found = next((n for name in LIMITS if (n := _field(place, name)) is not None), None)
            if isinstance(found, int) and found > 0:
                return found
    return None


def _field(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def axes_of_file(specs: Sequence[TensorSpec]) -> dict[str, Axis]:
    """Return a range for each dynamic axis of an ONNX file's inputs.

    Axes of matrices that no other input has broadcast: the first to the data's batch, the second
    to its heads.
    """
    axes = default_axes({spec.name: spec.shape for spec in specs}, {})
    data = next((spec for spec in specs if spec.role == "data"), None)
    others = names_of(dim for spec in specs if spec.role != "matrices" for dim in spec.shape)
    for spec in specs:
        for place, dim in enumerate(spec.shape[:2]):
            if spec.role != "matrices" or dim not in axes or dim in others or data is None:
                continue
            if place < len(data.shape):
                axes[str(dim)] = _broadcast(data.shape[place], axes)
    return axes


def _broadcast(to: int | str, axes: Mapping[str, Axis]) -> Axis:
    most = to if isinstance(to, int) else axes[to].max
    return Axis(min=1, opt=1, max=most, broadcasts_to=to, chosen_by="default")


def with_given(axes: Mapping[str, Axis], given: Mapping[str, Given] | None) -> dict[str, Axis]:
    """Return axes with those that the caller gives in their place.

    An axis that broadcasts goes on doing so, and as far as what it broadcasts to.

    Raises
    ------
    UsageError
        For a name that no axis has, or sizes out of order.
    """
    check_names("axes", given or {}, "{name: (min, opt, max)}")
    found = dict(axes)
    for name, sizes in (given or {}).items():
        if name not in axes:
            known = ", ".join(axes) or "none; name them among the dynamic axes first"
            raise UsageError(
                f"axis {name!r}: no such dynamic axis; there are {known}", code="RX114"
            )
        made = range_of(name, sizes)
        to = made.broadcasts_to if made.broadcasts_to is not None else axes[name].broadcasts_to
        found[name] = made.model_copy(update={"broadcasts_to": to})
    for name, axis in axes.items():
        target = axis.broadcasts_to
        if isinstance(target, str) and target in found and name not in (given or {}):
            top = found[target].max if axis.max == axes[target].max else axis.max
            found[name] = axis.model_copy(update={"max": top, "opt": min(axis.opt, top)})
    return found


def range_of(name: str, given: Given) -> Axis:
    """Return the range of an axis as the caller gives it.

    Raises
    ------
    UsageError
        For what is no range, or sizes out of order.
    """
    if isinstance(given, Axis):
        axis = given
    elif isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 3:
        low, opt, high = (whole(f"axis {name!r}", size) for size in given)
        if not low <= opt <= high:
            raise UsageError(
                f"axis {name!r}: expected 0 <= min <= opt <= max, got {low}:{opt}:{high}",
                code="RX114",
            )
        axis = Axis(min=low, opt=opt, max=high)
    else:
        raise UsageError(
            f"axis {name!r}: expected (min, opt, max) or an Axis, got {given!r}", code="RX114"
        )
    if axis.max == 0:
        raise UsageError(f"axis {name!r}: expected a max of at least 1, got 0", code="RX114")
    whole(f"axis {name!r}", axis.max)
    return axis


def check_names(what: str, given: object, expected: str) -> None:
    """Raise :class:`UsageError` for what does not map names."""
    if not isinstance(given, Mapping):
        raise UsageError(f"{what}: expected {expected}, got {type(given).__name__}", code="RX115")
    other = next((name for name in given if not isinstance(name, str)), None)
    if other is not None:
        raise UsageError(f"{what}: expected {expected}, got the name {other!r}", code="RX115")


def within_bounds(
    example: Example,
    make: Callable[[Example], Made],
    say: Callable[[str, str], None] | None = None,
) -> tuple[Example, Made]:
    """Make something of an example, its axes and their ranges changed to what its module takes.

    Parameters
    ----------
    example : Example
        With a range for each axis.
    make : callable
        Makes it, or raises :class:`AxisRangeError`.
    say : callable
        Called with ``axes`` and the reason of each change.

    Raises
    ------
    AxisRangeError
        Where a range that was given does not hold.
    """
    for _ in range(_MOST_CHANGES):
        try:
            return example, make(example)
        except AxisRangeError as error:
            example = _changed(example, error)
            if say is not None:
                say("axes", str(error))
    return example, make(example)


def _changed(example: Example, error: AxisRangeError) -> Example:
    sums = {name: sum_of(text) for name, text in error.relations.items()}
    if sums:
        axes = _related(example.axes, sums, error)
        dynamic_axes = {
            name: {axis: str(substituted(label, sums)) for axis, label in labels.items()}
            for name, labels in example.tensor_axes.items()
        }
        example = replace(example, axes=axes, dynamic_axes=dynamic_axes)
    return replace(example, axes=_cut(example.axes, error))


def _related(
    axes: Mapping[str, Axis], sums: Mapping[str, Sum], error: AxisRangeError
) -> dict[str, Axis]:
    """Return the ranges of the axes that are left, one that was given as the sum's own.

    Raises
    ------
    AxisRangeError
        Where it is none of the sum's, or two were given of one axis.
    """
    found = {name: axis for name, axis in axes.items() if name not in sums}
    for name, total in sums.items():
        own = axes[name]
        others = [axes[other] for other in total.names if other in axes]
        is_given = own.chosen_by == "caller"
        if len(total.terms) == 1 and (is_given or not others):
            inner = _inside(own, total)
            fits = inner is not None and all(x.chosen_by != "caller" or x == inner for x in others)
            if inner is None or not fits:
                raise error
            found[total.names[0]] = inner
        elif is_given:
            raise error
    return found


def _inside(axis: Axis, total: Sum) -> Axis | None:
    """Return the range of an axis, of which another is a multiple, within that one's range."""
    ((_, factor),) = total.terms
    least, most = -(-(axis.min - total.constant) // factor), (axis.max - total.constant) // factor
    least = max(least, 0 if axis.min == 0 else 1)
    if least > most:
        return None
    best = min(max((axis.opt - total.constant) // factor, least), most)
    return axis.changed(min=least, opt=best, max=most)


def _cut(axes: Mapping[str, Axis], error: AxisRangeError) -> dict[str, Axis]:
    found = dict(axes)
    for name, (least, most) in error.bounds.items():
        axis = found[name]
        low, high = max(axis.min, least or 1), min(axis.max, most or axis.max)
        if axis.chosen_by == "caller" or low > high or (low, high) == (axis.min, axis.max):
            raise error
        best = min(max(axis.opt, low), high)
        found[name] = Axis(min=low, opt=best, max=high, chosen_by="module")
    return found
