"""Between a call like the module's own and the flat inputs and outputs of the file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ropeexport.errors import ManifestError, UsageError
from ropeexport.manifest import Argument, Forward, Manifest

Parts = Mapping[str, Any]


class Arguments:
    """Binds calls to a file's inputs, as its module's ``forward`` would bind them.

    Parameters
    ----------
    manifest : Manifest
        Of the folder; one of an older version, or of a file, says of its inputs alone.

    Raises
    ------
    ManifestError
        Where it names inputs or outputs that it does not have.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.names = tuple(spec.name for spec in manifest.model.inputs)
        self.outputs = tuple(spec.name for spec in manifest.model.outputs)
        self._forward = manifest.forward or Forward()
        self._trees = manifest.arguments or {
            name: Argument(kind="input", value=name) for name in self.names
        }
        self.parameters = self._forward.parameters or tuple(self._trees)
        self._check()
        self._is_flat = set(self.names) <= set(self._trees)

    def _check(self) -> None:
        forward = self._forward
        returned = [tree for tree in (forward.returns, forward.returns_class) if tree is not None]
        for kind, names, trees in (
            ({"input", "unknown"}, self.names, self._trees.values()),
            ({"output"}, self.outputs, returned),
        ):
            for leaf in (leaf for tree in trees for leaf in tree.leaves()):
                is_there = leaf.kind == "unknown" or leaf.value in names
                if leaf.kind != "fixed" and not (leaf.kind in kind and is_there):
                    raise ManifestError(
                        f"manifest: expected one of {', '.join(names)}, got the {leaf.kind} "
                        f"{leaf.value!r}: export again",
                        code="RX310",
                    )

    @property
    def roots(self) -> tuple[str, ...]:
        """The arguments that the export has, by the name of a tree for all that is in it."""
        return (*self._trees, *self.names)

    def called_by(self, parameters: tuple[str, ...]) -> Arguments:
        """Return the arguments for a signature of these names."""
        other = copy.copy(self)
        other.parameters = parameters
        return other

    def bound(self, args: Sequence[Any], kwargs: Parts) -> Parts:
        """Return the inputs by name.

        Raises
        ------
        UsageError
            For an argument that the export does not have, or that was fixed at another value.
        """
        if not args and self._is_flat and kwargs.keys() == set(self.names):
            return kwargs
        feeds: dict[str, Any] = {}
        for name, value in self.named(args, kwargs).items():
            self._bind(name, value, feeds)
        return feeds

    def named(self, args: Sequence[Any], kwargs: Parts) -> Parts:
        """Return the arguments of a call by name, as Python would."""
        if len(args) > len(self.parameters):
            raise UsageError(
                f"expected at most {len(self.parameters)} arguments in order "
                f"({', '.join(self.parameters)}), got {len(args)}",
                code="RX606",
            )
        positional = dict(zip(self.parameters, args, strict=False))
        twice = next((name for name in positional if name in kwargs), None)
        if twice is not None:
            raise UsageError(f"{twice}: given twice, in order and by name", code="RX606")
        return {**positional, **kwargs}

    def check_omitted(self, given: Collection[str]) -> None:
        """Raise for an argument that forward takes at another value than the export, if left out.

        Parameters
        ----------
        given : collection of str
            The arguments that a call has.
        """
        for name, tree in self._trees.items():
            default = self._forward.defaults.get(name)
            if name in given or default is None or not _is_fixed(tree):
                continue
            there, here = _plain(default), _plain(tree)
            if not _is_same(there, here) and not (_is_off(there) and _is_off(here)):
                raise UsageError(
                    f"{name}: fixed as {here!r} in the export, while forward takes {there!r} where "
                    f"it is left out: pass {name}={here!r}, or export again without it",
                    code="RX607",
                )

    def result(self, outputs: Parts) -> Any:
        """Return what forward returned at the export; of a library's class a dict of its fields."""
        if self._forward.returns is None:
            only = len(self.outputs) == 1
            return outputs[self.outputs[0]] if only else tuple(outputs[x] for x in self.outputs)
        return rebuilt(self._forward.returns, outputs)

    def _bind(self, name: str, value: Any, feeds: dict[str, Any]) -> None:
        tree = self._trees.get(name)
        if tree is not None:
            _descend(tree, value, name, feeds)
        elif name in self.names:  # by the path of an input in a tree
            feeds[name] = value
        elif not self._is_default(name, value):
            raise UsageError(
                f"{name}: the export has no such argument (it has {', '.join(self._trees)}): leave "
                "it out, or export again with it",
                code="RX606",
            )

    def _is_default(self, name: str, value: Any) -> bool:
        """Say whether an argument that the export was not given is what it was then."""
        default = self._forward.defaults.get(name)
        if _is_nothing(value):
            return default is not None and _is_nothing(_plain(default))
        return default is not None and _is_same(_plain(default), value)


def _is_nothing(value: Any) -> bool:
    """Say whether a value holds nothing: None, or an empty container."""
    return value is None or (isinstance(value, list | tuple | dict) and not value)


def rebuilt(
    tree: Argument, outputs: Parts, make: Callable[[str, Parts], Any] = lambda _, fields: fields
) -> Any:
    """Return a tree of outputs; ``make`` takes the name and the fields of a library's class."""
    if tree.kind == "output":
        return outputs[str(tree.value)]
    if tree.kind == "fixed":
        return tree.value
    parts = [rebuilt(part, outputs, make) for part in tree.parts]
    if tree.kind == "dict":
        return dict(zip(tree.keys, parts, strict=True))
    if tree.kind == "class":
        fields = {str(key): part for key, part in zip(tree.keys, parts, strict=True)}
        return make(str(tree.value), fields)
    return tuple(parts) if tree.kind == "tuple" else parts


def _descend(tree: Argument, value: Any, where: str, feeds: dict[str, Any]) -> None:
    """Take the inputs out of an argument, and hold the rest to what it was at the export."""
    if tree.kind == "input":
        if value is None:
            raise UsageError(
                f"{where}: expected a tensor, as at the export, got None", code="RX606"
            )
        feeds[str(tree.value)] = value
    elif tree.kind == "unknown":
        raise UsageError(
            f"{where}: fixed in the export, which could not record its value: leave it out, or "
            "export again with this one",
            code="RX607",
        )
    elif tree.kind == "fixed":
        if not _is_same(tree.value, value):
            raise UsageError(
                f"{where}: fixed as {tree.value!r} in the export, got {value!r}: export again with "
                "this value",
                code="RX607",
            )
    else:
        for key, part in _parts_of(tree, value, where):
            _descend(part, value[key], f"{where}.{key}", feeds)


def _parts_of(tree: Argument, value: Any, where: str) -> list[tuple[Any, Argument]]:
    is_dict = tree.kind == "dict"
    fits = isinstance(value, Mapping if is_dict else (list, tuple))
    keys: Sequence[Any] = tree.keys if is_dict else range(len(tree.parts))
    found = list(value) if is_dict and fits else range(len(value)) if fits else ()
    if not fits or len(found) != len(keys) or set(found) != set(keys):
        expected = f"{tree.kind} of {', '.join(map(str, keys)) if is_dict else len(keys)}"
        got = f"{type(value).__name__} of {len(value)}" if fits else type(value).__name__
        raise UsageError(
            f"{where}: expected a {expected}, as at the export, got {got}", code="RX606"
        )
    return list(zip(keys, tree.parts, strict=True))


def _is_fixed(tree: Argument) -> bool:
    """Say whether an argument has neither inputs nor what could not be recorded."""
    return all(leaf.kind == "fixed" for leaf in tree.leaves())


def _is_off(value: Any) -> bool:
    """Say whether a value turns something off: None is forward's own choice, False as a rule."""
    return value is False or _is_nothing(value)


def _plain(tree: Argument) -> Any:
    """Return a fixed argument as a value."""
    return rebuilt(tree, {})


def _is_same(one: Any, other: Any) -> bool:
    """Say whether two values without tensors are the same; 1 is not True."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    try:
        return bool(one == other)
    except (TypeError, ValueError, RuntimeError):  # an array, or a tensor of many numbers
        return False
