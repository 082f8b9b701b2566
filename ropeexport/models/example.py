"""What the exporter is given: a module, inputs to trace it with, and which axes are dynamic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ropeexport.axes import names_of, solve, sum_of
from ropeexport.errors import UsageError
from ropeexport.manifest import Axis, CacheRecord, InputRole, TensorSpec
from ropeexport.models.axes import check_names, default_axes, longest_of, range_of, with_given
from ropeexport.models.input_tree import InputTree, by_leaf, tensors_of, tree_of
from ropeexport.models.wrappers import check_named, unwrapped
from ropeexport.runners.module_state import ModuleState

_ROLES = get_args(InputRole)  # a caller's; an output is "rotated"
_MATRIX_RANK = 3  # (..., length, pairs, 2, 2) has more


@dataclass(frozen=True)
class Example:
    """A module ready to be traced.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode, in the type that it is exported in; of ``torch.compile``,
        ``DataParallel`` and ``DistributedDataParallel`` the module inside is taken.
    inputs : dict of str to Any
        By the names of ``forward``'s arguments, in order: tensors, or trees of them (lists, tuples,
        dicts, classes that torch knows).  A tensor in a tree is an input by the name of its path,
        ``past.0.key``; what is no tensor is fixed in its place.
    dynamic_axes : dict
        Input name to ``{axis: name of the dynamic axis}``, e.g. ``{"q": {0: "batch"}}``, or to a
        sum of names, ``{"mask": {3: "past + length"}}`` (see :mod:`ropeexport.axes`).  The name of
        a tree stands for each tensor in it.
    axes : dict of str to Axis or (min, opt, max)
        Sizes that each dynamic axis is meant for; those left out get a range of
        :mod:`ropeexport.models.axes`.
    outputs : tuple of str
        Names of the outputs; empty: as :func:`ropeexport.export` has them.
    constants : dict of str to Any
        Further arguments of ``forward``, fixed with all that they hold, tensors included.
    weights : Path or None
        The folder of the safetensors files with the module's weights, where the module itself is
        a :func:`ropeexport.weights.references.skeleton`.
    roles : dict of str to str
        What an input holds, where its name (or a tree's) is given: ``data``, ``matrices`` of a
        rope, ``positions``, a ``mask``, or a ``grid`` of images whose patches lie together (or a
        ``still_grid``, see :mod:`ropeexport.grids`).  Of the others the traced graph says it.
    cache : CacheRecord or None
        Of a decoder with its cache, see :func:`ropeexport.models.hub.decoders.cached_example`.

    Examples
    --------
    A cache that grows:

    >>> import torch
    >>> from ropeexport import Axis, Example
    >>> class Append(torch.nn.Module):
    ...     def forward(self, x, past):
    ...         return {name: torch.cat([old, x], 1) for name, old in past.items()}
    >>> past = {"key": torch.zeros(1, 5, 8), "value": torch.zeros(1, 5, 8)}
    >>> example = Example(
    ...     Append(), {"x": torch.zeros(1, 3, 8), "past": past},
    ...     {"x": {1: "length"}, "past": {1: "past"}},
    ...     axes={"past": Axis(min=0, opt=512, max=4096)},
    ... )
    >>> list(example.tensors)
    ['x', 'past.key', 'past.value']
    >>> example.tensor_axes["past.value"]
    {1: 'past'}
    """

    module: nn.Module
    inputs: dict[str, Any]
    dynamic_axes: Mapping[str, Mapping[int, str]]
    axes: dict[str, Axis] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    constants: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    roles: dict[str, InputRole] = field(default_factory=dict)
    cache: CacheRecord | None = None

    def __post_init__(self) -> None:
        _check_kinds(self)
        object.__setattr__(self, "module", unwrapped(self.module))
        ranges = {name: range_of(name, given) for name, given in self.axes.items()}
        object.__setattr__(self, "axes", ranges)

    @cached_property
    def tree(self) -> InputTree:
        """Where each input lies in the arguments."""
        return tree_of(self.inputs)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The inputs of the file, by name."""
        return dict(zip(self.tree.paths, tensors_of(self.inputs), strict=True))

    @cached_property
    def tensor_axes(self) -> dict[str, dict[int, str]]:
        """The dynamic axes of each input that has any."""
        found: dict[str, dict[int, str]] = {}
        for name, axes in by_leaf(self.dynamic_axes, list(self.tensors), "dynamic axes"):
            found.setdefault(name, {}).update(axes)
        return {name: found[name] for name in self.tensors if name in found}

    @cached_property
    def tensor_roles(self) -> dict[str, InputRole]:
        """The roles that are given, of each input."""
        return dict(by_leaf(self.roles, list(self.tensors), "roles"))

    def arguments(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return forward's arguments with these inputs, by name."""
        return self.tree.filled(tensors) | self.constants

    @property
    def constant_leaves(self) -> list[Any]:
        """What the fixed arguments hold, in order."""
        return pytree.tree_leaves(dict(self.constants))


def _check_kinds(example: Example) -> None:
    """Hold what a caller gives to the kinds that the fields say."""
    module = example.module
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"module: expected an nn.Module, got {type(module).__name__}", code="RX107"
        )
    check_names("inputs", example.inputs, "{argument: tensor}")
    check_names("dynamic axes", example.dynamic_axes, "{input: {axis: name}}")
    check_names("axes", example.axes, "{name: (min, opt, max)}")
    check_names("constants", example.constants, "{argument: value}")
    check_names("roles", example.roles, "{input: what it holds}")
    for name, axes in example.dynamic_axes.items():
        if not isinstance(axes, Mapping):
            raise UsageError(
                f"dynamic axes: {name}: expected {{axis: name}}, {{0: 'batch'}} say, got {axes!r}",
                code="RX112",
            )


def checked(example: Example) -> Example:
    """Return the example with every axis's range.

    Raises
    ------
    UsageError
        For what cannot be exported as it is given.
    """
    _check_types(example)
    check_named(example.module, [*example.inputs, *example.constants])
    for name, axes in example.tensor_axes.items():
        rank = example.tensors[name].ndim
        for axis, label in axes.items():
            if type(axis) is not int or not 0 <= axis < rank:
                raise UsageError(
                    f"dynamic axes: {name}: expected an axis in 0..{rank - 1}, got {axis!r}",
                    code="RX112",
                )
            is_name = isinstance(label, str) and label
            if not is_name or not all(part.isidentifier() for part in sum_of(label).names):
                raise UsageError(
                    f"dynamic axes: {name}: expected a name like batch, or a sum of names like "
                    f"'past + length' or '8*blocks', got {label!r}",
                    code="RX112",
                )
    for name, role in example.tensor_roles.items():
        _check_role(name, role, example.tensors[name])
    return replace(example, axes=all_axes(example))


def example_sizes(example: Example) -> dict[str, int]:
    """Return the size of each dynamic axis in an example's inputs.

    Raises
    ------
    UsageError
        Where two inputs disagree, or an axis is in sums alone that do not tell its size.
    """
    labels = [
        (label, example.tensors[name].shape[axis], name)
        for name, axes in example.tensor_axes.items()
        for axis, label in axes.items()
    ]
    sizes = solve(labels, "dynamic axes")
    unknown = [name for name in names_of(label for label, _, _ in labels) if name not in sizes]
    if unknown:
        raise UsageError(
            f"dynamic axes: axis {unknown[0]!r}: expected an input that has it alone; it is only "
            "in sums with others, which do not tell its size",
            code="RX112",
        )
    return sizes


def _check_types(example: Example) -> None:
    weights = dict(example.module.named_parameters())
    tensors = example.tensors | weights
    wide = [name for name, x in tensors.items() if x.dtype is torch.float64]
    if wide:
        raise UsageError(
            f"{wide[0]}: expected float32, float16 or bfloat16, got float64, "
            "which no production runtime rotates in; call .float() on the module and its inputs",
            code="RX113",
        )


def _check_role(name: str, role: InputRole, x: Tensor) -> None:
    if role not in _ROLES:
        raise UsageError(
            f"roles: {name}: expected one of {', '.join(_ROLES)}, got {role!r}", code="RX112"
        )
    is_grid = x.ndim == 2 and x.shape[1] == 3 and not x.is_floating_point()
    if role in ("grid", "still_grid") and not is_grid:
        raise UsageError(
            f"roles: {name}: expected whole numbers (images, 3), the frames, rows and columns of "
            f"each, got {str(x.dtype).removeprefix('torch.')} of {tuple(x.shape)}",
            code="RX112",
        )
    is_square = x.ndim > _MATRIX_RANK and tuple(x.shape[-2:]) == (2, 2) and x.is_floating_point()
    if role == "matrices" and not is_square:
        raise UsageError(
            f"roles: {name}: expected matrices (..., length, pairs, 2, 2) of floats, got "
            f"{str(x.dtype).removeprefix('torch.')} of {tuple(x.shape)}",
            code="RX112",
        )


def all_axes(example: Example) -> dict[str, Axis]:
    """Return every dynamic axis: as the example gives it, or a range that a user would expect."""
    shapes = {
        name: [
            example.tensor_axes.get(name, {}).get(axis, size) for axis, size in enumerate(x.shape)
        ]
        for name, x in example.tensors.items()
    }
    defaults = default_axes(shapes, example_sizes(example), longest_of(example.module))
    return with_given(defaults, example.axes)


def traceable_sizes(example: Example) -> Iterator[dict[str, int]]:
    """Yield sizes of the dynamic axes, each at least 2, of which a module may take the first.

    torch.export takes an example size of 0 or 1 for a constant, and would freeze the axis.  An axis
    that follows from one of those by the module's own arithmetic has to grow with it: all are
    doubled, which keeps multiples and sums, or what is 0 adds to another.
    """
    sizes = example_sizes(example)
    least = {name: max(2, size) for name, size in sizes.items()}
    yield least
    if least == sizes:
        return
    if 0 not in sizes.values():
        yield {name: 2 * size for name, size in sizes.items()}
    for name, size in sizes.items():
        if size > 1:
            yield least | {name: size + sum(least[other] - sizes[other] for other in sizes)}


def traceable_arguments(example: Example, sizes: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return forward's arguments at sizes of its axes that torch can trace.

    Each is a tensor of its own: torch takes one in two places for one input, whatever the two are
    given later.
    """
    sizes = sizes if sizes is not None else next(traceable_sizes(example))
    made: dict[str, Tensor] = {}
    for name, x in example.tensors.items():
        resized = _resized(x, example.tensor_axes.get(name, {}), sizes)
        is_another = any(resized is other for other in made.values())
        made[name] = resized.clone() if is_another else resized
    own: dict[str, Any] = pytree.tree_map_only(Tensor, Tensor.clone, example.constants)
    return example.arguments(made) | own


def _resized(x: Tensor, axes: Mapping[int, str], sizes: Mapping[str, int]) -> Tensor:
    """Repeat what there is along an axis until it has its size; nothing becomes zeros."""
    for axis, label in axes.items():
        size, wanted = x.shape[axis], sum_of(label).at(sizes)
        if size == 0:
            x = x.new_zeros([*x.shape[:axis], wanted, *x.shape[axis + 1 :]])
        elif size != wanted:
            x = x.index_select(axis, torch.arange(wanted, device=x.device) % size)
    return x


class _Bound(nn.Module):
    """A module that takes the inputs of the file by their names."""

    def __init__(self, example: Example) -> None:
        super().__init__()
        self.module = example.module
        self._tree = example.tree
        self._constants = example.constants
        for place, x in enumerate(tensors_of(example.constants)):  # they move with the module
            self.register_buffer(f"constant_{place}", x.clone(), persistent=False)

    def forward(self, **inputs: Tensor) -> Any:
        own = iter(self._buffers.values())
        constants = pytree.tree_map_only(Tensor, lambda _: next(own), self._constants)
        return self.module(**self._tree.filled(inputs), **constants)


def bound(example: Example) -> nn.Module:
    """Return a module that takes the example's inputs alone, by name."""
    is_flat = example.tree.is_flat and not example.constants
    return example.module if is_flat else _Bound(example)


def with_paths_and_roles(example: Example, specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return the specs of a file's inputs with what the example knows of them."""
    paths, roles = example.tree.paths, example.tensor_roles
    return tuple(
        spec.model_copy(
            update={
                "path": paths[spec.name] if len(paths[spec.name]) > 1 else (),
                "role": roles.get(spec.name, spec.role),
            }
        )
        for spec in specs
    )


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """Have a module in evaluation mode for a while, then each part as it was, on its device."""
    modes = [(part, part.training) for part in module.modules()]
    devices = list({x.device for x in module.parameters()})
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        if len(devices) == 1 and next(module.parameters()).device not in devices:
            module.to(devices[0])


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Put back what a module holds, whatever a trace or a call has left in it.

    A forward that stores a tensor in its module (transformers' longrope, a table kept for the next
    call) stores a fake one while it is traced, and would compute with that afterwards.
    """
    state = ModuleState(module)
    try:
        yield
    finally:
        state.restore()
