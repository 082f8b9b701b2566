"""A loaded folder as an ``nn.Module``, for the place of the module that was exported.

A pipeline of diffusers, say, asks its transformer for more than a forward: its config, type and
device, a context, a class for what it returns.  What the exported one has not is refused by name,
so that nothing is left out without a word: a LoRA that goes nowhere, a cast that does nothing.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Self

import torch
from torch import Tensor, nn

from ropeexport.dtypes import EXPORTED
from ropeexport.errors import UsageError, first_line
from ropeexport.inference.arguments import Parts, rebuilt
from ropeexport.inference.likeness import check_like
from ropeexport.manifest import Argument, Forward
from ropeexport.models.wrappers import HANDS_ON

if TYPE_CHECKING:
    from ropeexport.inference.loaded import LoadedModel

Adapt = Callable[[dict[str, Any]], Mapping[str, Any]]

_RETURN_DICT = "return_dict"
_PLAIN = (str, int, float, bool, type(None), torch.dtype)


class MissingAttributeError(UsageError, AttributeError):
    """What is asked of an exported module is not in an export; ``hasattr`` says so too."""


class ExportedModule(nn.Module):
    """An exported folder that stands for the module it was exported from.

    It has no weights: their memory is the runtime's, and stays where it is.  Its one parameter is
    empty, for code that asks the first one for its device or type (accelerate's hooks).

    Parameters
    ----------
    model : LoadedModel
        The folder, see :func:`ropeexport.load`.
    like : nn.Module, optional
        The module whose place it takes: its config, its plain attributes and the signature of its
        forward are kept, its class is what ``isinstance`` says; its weights are not needed, nor
        kept (``like`` may be on the device ``meta``).
    adapt : callable, optional
        For an export through a wrapper: takes the arguments of ``like.forward`` by name, and
        returns those of the export.

    Examples
    --------
    >>> import torch, ropeexport
    >>> class Attention(torch.nn.Module):
    ...     def forward(self, q, pe):
    ...         return ropeexport.attention(q, q, q, pe)
    >>> attention = Attention()
    >>> kwargs = {"q": torch.zeros(1, 2, 8, 16), "pe": torch.zeros(1, 1, 8, 8, 2, 2)}
    >>> made = ropeexport.export(attention, kwargs, "out")
    >>> module = ropeexport.load("out", device="cpu").as_module(like=attention)
    >>> isinstance(module, Attention), module.dtype, module.device
    (True, torch.float32, device(type='cpu'))
    >>> torch.equal(module(**kwargs), attention(**kwargs))
    True
    """

    _stands_for: type[nn.Module] | None = None
    _FURTHER: tuple[str, ...] = (_RETURN_DICT,)  # arguments that it has beside those of the export

    def __init__(
        self, model: LoadedModel, like: nn.Module | None = None, adapt: Adapt | None = None
    ) -> None:
        super().__init__()
        self.loaded = model
        self._adapt = adapt
        forward = model.artifact.manifest.forward or Forward()
        self._returns = forward.returns_class or forward.returns
        self._types = {spec.name: getattr(torch, spec.dtype) for spec in model.inputs}
        self._arguments = model.arguments
        choice = forward.defaults.get(_RETURN_DICT)
        self._is_class_usual = choice.value is not False if choice else forward.returns is not None
        self.training = False
        nothing = torch.empty(0, dtype=self.dtype, device=self.device)
        self.nothing = nn.Parameter(nothing, requires_grad=False)
        if like is not None:
            self._take(like)

    def _take(self, like: nn.Module) -> None:
        """Keep what others ask a module for, but its weights."""
        if self._adapt is None:
            check_like(self.loaded, like)
        signature = inspect.signature(like.forward)
        parameters = signature.parameters
        named = tuple(name for name, x in parameters.items() if x.kind not in HANDS_ON)
        if named:
            self._arguments = self._arguments.called_by(named)
            self._show(signature)
        if _RETURN_DICT in parameters:
            self._is_class_usual = parameters[_RETURN_DICT].default is not False
            if self._returns is None or self._returns.kind != "class":
                self._returns = _annotated(like, self.loaded.arguments.outputs) or self._returns
        for name, value in vars(like).items():
            if not name.startswith("_") and not hasattr(type(self), name) and _is_plain(value):
                setattr(self, name, value)
        for name in ("config", "generation_config"):
            if hasattr(like, name):
                self.__dict__[name] = getattr(like, name)
        self._stands_for = type(like)

    def _show(self, signature: inspect.Signature) -> None:
        """Have forward show the arguments that the export has: libraries pass what they see."""
        has = {*self.loaded.arguments.roots, *self._FURTHER}
        kept = [x for x in signature.parameters.values() if self._adapt or x.name in has]

        def forward(*args: Any, **kwargs: Any) -> Any:
            return type(self).forward(self, *args, **kwargs)

        forward.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        self.__dict__["forward"] = forward

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The class whose place this takes, for ``isinstance``; ``type`` tells the truth."""
        return self._stands_for or type(self)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the data that is rotated, in which a pipeline hands over its own."""
        kind = EXPORTED.get(self.loaded.dtype)  # of a file without data there is none
        return kind.torch if kind is not None else torch.get_default_dtype()

    @property
    def device(self) -> torch.device:
        """Where the runtime computes."""
        index = torch.cuda.current_device() if self.loaded.device == "cuda" else None
        return torch.device(self.loaded.device, index) if index is not None else torch.device("cpu")

    def cache_context(self, name: str, **of_the_step: Any) -> AbstractContextManager[None]:
        """Return diffusers' context of a cache between steps; the exported module has none."""
        return nullcontext()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on the module's arguments, in order or by name.

        Floats are cast to the file's types, as a pipeline of another type needs; an argument that
        the export does not have is refused by name.
        """
        given = dict(self._arguments.named(args, kwargs))
        wants_class = bool(given.pop(_RETURN_DICT, self._is_class_usual))
        if self._adapt is not None:
            given = dict(self._adapt(given))
        else:
            self.loaded.arguments.check_omitted({*given, *self._FURTHER})
        return self._returned(self._called(given), wants_class)

    def _called(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs by name of a call with these arguments of the export."""
        feeds = self.loaded.arguments.bound((), given)
        return self.loaded.run({name: self._cast(name, x) for name, x in feeds.items()})

    def _returned(self, outputs: dict[str, Any], wants_class: bool) -> Any:
        """Return outputs as forward returns them."""
        if self._returns is None or self._returns.kind != "class":
            return self.loaded.arguments.result(outputs)
        if wants_class:
            return rebuilt(self._returns, outputs, _instance)
        known = (part for part in self._returns.parts if part.kind != "fixed")
        return tuple(rebuilt(part, outputs, _instance) for part in known)

    def _cast(self, name: str, x: Any) -> Any:
        """Return an input in the file's type, where no value is lost but a float's last bits."""
        wanted = self._types.get(name)
        if isinstance(x, bool | int | float):
            x = torch.tensor(x, device=self.device)
        if not isinstance(x, Tensor) or wanted is None or x.dtype is wanted:
            return x  # what is none of the file's is refused there
        if not torch.can_cast(x.dtype, wanted):  # a float to a whole number
            raise UsageError(f"{name}: expected {wanted}, got {x.dtype}", code="RX604")
        cast = x.to(wanted)
        if not x.is_floating_point() and not torch.equal(cast.to(x.dtype), x):
            raise UsageError(
                f"{name}: expected {wanted}, got whole numbers that it does not hold", code="RX604"
            )
        return cast

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the module, whose device and type cannot change: others are refused."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is not None and dtype is not self.dtype:
            raise UsageError(
                f"to: the export computes in {self.dtype}, got {dtype}: export it again in that "
                "type, or move the others by themselves and let this cast what it is given",
                code="RX616",
            )
        if device is not None and device.type != self.device.type:
            raise UsageError(
                f"to: loaded on {self.device.type}, where it stays, got {device.type}: "
                f"ropeexport.load({str(self.loaded.artifact.folder)!r}, device={device.type!r}) "
                "loads it there; a pipeline's offloading moves every part, so leave this one out "
                "(its _exclude_from_cpu_offload)",
                code="RX616",
            )
        return self

    def cuda(self, device: Any = None) -> Self:
        """See :meth:`to`."""
        return self.to("cuda")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """See :meth:`to`: what ``half``, ``type`` and a module around this one do to its parts."""
        made = fn(self.nothing)
        return self.to(made.device, made.dtype)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Refuse gradients."""
        if requires_grad:
            self._refuse("requires_grad_", "train the module itself, before the export")
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module | nn.Parameter) and name != "nothing":
            self._take_part(name)
        super().__setattr__(name, value)

    def _take_part(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Refuse parts and weights, with which nothing would be computed."""
        self._refuse(name, "its file has all that it computes with: change the module, export it")

    add_module = register_module = register_buffer = _take_part

    def train(self, mode: bool = True) -> Self:
        """Refuse training."""
        if mode:
            self._refuse("train", "it computes what the module did in evaluation mode")
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: it has no weights, and what it has would pass for all of them."""
        self._refuse(
            "state_dict",
            "its weights are in that folder; a LoRA is merged into the module that was exported, "
            "whose weights are then given to update()",
        )

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse, since nothing would change."""
        self._refuse("load_state_dict", "give them to update() of what ropeexport.load returned")

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: a pipeline would be saved without its transformer."""
        self._refuse(
            "save_pretrained",
            "keep that folder; to save a pipeline, put the module back that was exported",
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        self._refuse("pickle, copy", "load that folder where it is needed")

    def _refuse(self, what: str, instead: str) -> NoReturn:
        raise UsageError(
            f"{what}: an export of {self.loaded.artifact.folder} has none: {instead}", code="RX616"
        )

    def extra_repr(self) -> str:
        """Return what is loaded where."""
        return f"exported: {self.loaded!r}"

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__.get("_parameters", {})  # by which accelerate's hooks find its place
        if name in own:
            return own[name]
        stands_for = self.__dict__.get("_stands_for")
        value = inspect.getattr_static(stands_for, name, _ABSENT) if stands_for else _ABSENT
        if isinstance(value, classmethod | staticmethod):  # which know no weights
            return getattr(stands_for, name)
        if value is not _ABSENT and _is_plain(value):
            return value
        kind = stands_for.__name__ if stands_for is not None else "module"
        raise MissingAttributeError(
            f"{name}: not in an export of a {kind}, which has its forward, config, dtype and "
            "device: use the module itself for it, before the export",
            code="RX616",
        )


_ABSENT = object()


def _is_plain(value: Any) -> bool:
    parts = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(part, _PLAIN) for part in parts)


def _annotated(like: nn.Module, outputs: tuple[str, ...]) -> Argument | None:
    """Return the output class that forward's annotation names, its first fields the outputs."""
    try:
        returned = typing.get_type_hints(like.forward).get("return")
    except (NameError, TypeError):  # names that only a type checker has
        return None
    for kind in typing.get_args(returned) or (returned,):
        if isinstance(kind, type) and issubclass(kind, Mapping) and is_dataclass(kind):
            keys = tuple(field.name for field in fields(kind))[: len(outputs)]
            parts = tuple(Argument(kind="output", value=name) for name in outputs)
            if len(keys) == len(parts):
                name = f"{kind.__module__}:{kind.__qualname__}"
                return Argument(kind="class", value=name, keys=keys, parts=parts)
    return None


def _instance(name: str, values: Parts) -> Any:
    """Return an object of a library's output class, which the library has loaded already.

    A manifest may come from anywhere, so nothing is imported for it, and only a class that holds
    results is called.
    """
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    holds = isinstance(found, type) and (is_dataclass(found) or hasattr(found, "_fields"))
    if not holds:
        raise UsageError(
            f"{name}: expected the class of what it returns, found none: import {module} first, or "
            "pass return_dict=False",
            code="RX617",
        )
    try:
        return found(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{name}: expected a class with the fields {', '.join(values)}: {first_line(error)}; "
            "export again, or pass return_dict=False",
            code="RX617",
        ) from error
