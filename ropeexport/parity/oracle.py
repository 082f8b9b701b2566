"""The float64 oracle: the module on the exact inputs, and on perturbed ones for its sensitivity.

The inputs of a case are numbers of their own type; the oracle takes those very numbers, widened.
Matrices ``pe`` are such an input.  Where a module makes them itself from integer positions,
``ropeexport.rope`` rounds them to float32 by contract, in the oracle as in eager.  What else a
module casts to a narrower type stays in float64, and what its tables in float32 cost and its casts
to float32, or to a half type in a module that has none, is measured on its own: a conversion is
rounded once and grows in no sum.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ropeexport.dtypes import HALVES, SINGLE
from ropeexport.errors import ParityError
from ropeexport.parity.references import (
    TABLE_DRAWS,
    Outputs,
    Truth,
    floats_in_float64,
    moves_of,
    truth_of,
)
from ropeexport.runners.eager import ModuleCalls, cause_of
from ropeexport.runners.runner import Arrays, Float64s
from ropeexport.runners.torch_arrays import tensor_from

_HALVES = frozenset(kind.torch for kind in HALVES)
_NARROWER = _HALVES | {torch.float32}
Call = Callable[..., Any]
_CASTS: dict[Call, torch.dtype] = {
    Tensor.float: torch.float32,
    Tensor.half: torch.float16,
    Tensor.bfloat16: torch.bfloat16,
}
_NORMS = (torch.linalg.vector_norm, torch.linalg.matrix_norm, torch.linalg.norm)
_RMS_NORMS = (torch.rms_norm, nn.functional.rms_norm)
_REINTERPRETS = (Tensor.view, torch.ops.aten.view.dtype)


class WideCopy:
    """A float64 copy of a module, on the CPU.

    Parameters
    ----------
    module : nn.Module
        It is copied, and stays as it is.

    Attributes
    ----------
    module : nn.Module
        The copy, in evaluation mode.
    widest : int
        The longest axis of its weights.
    tables : list of Tensor
        Its buffers that were in float32.
    """

    def __init__(self, module: nn.Module) -> None:
        own = _copied(module).to("cpu")
        names = [name for name, x in own.named_buffers() if x.dtype is torch.float32]
        self._has_halves = any(x.dtype in _HALVES for x in own.parameters())
        self.module = own.double().eval()
        self.tables = [self.module.get_buffer(name) for name in names]
        self.widest = max((max(p.shape, default=1) for p in own.parameters()), default=1)

    def conversions(self, inputs: Arrays) -> frozenset[torch.dtype]:
        """Return the types that it narrows numbers to by itself: narrower than its own, or single.

        A module in a half type rounds to that type as it computes, which is no conversion.
        """
        is_half = self._has_halves or any(tensor_from(x).dtype in _HALVES for x in inputs.values())
        return frozenset({torch.float32}) if is_half else _NARROWER

    @contextmanager
    def coarse_tables(self, seed: int) -> Iterator[None]:
        """Have the tables in float32 off by as much as their rounding."""
        generator = torch.Generator().manual_seed(seed)
        exact = [table.clone() for table in self.tables]
        with torch.no_grad():
            for table in self.tables:
                table.mul_(noise_of(table, SINGLE.unit_roundoff, generator))
            try:
                yield
            finally:
                for table, former in zip(self.tables, exact, strict=True):
                    table.copy_(former)


def noise_of(like: Tensor, roundoff: float, generator: torch.Generator) -> Tensor:
    """Return factors that are off 1 by up to a roundoff, at random."""
    signs = torch.rand(like.shape, dtype=torch.float64, generator=generator)
    return 1.0 + roundoff * (2.0 * signs - 1.0)


class Oracle:
    """Computes exact outputs with a float64 copy of a module, on the CPU.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode; it is copied.
    output_names : sequence of str
        Names of what it returns, in order.
    """

    def __init__(self, module: nn.Module, output_names: Sequence[str]) -> None:
        self._copy = WideCopy(module)
        # an input changed in place is eager's to tell: what is cast there is not cast here
        self._calls = ModuleCalls(self._copy.module, output_names, may_change_inputs=True)
        self.widest = self._copy.widest

    def truth(self, inputs: Arrays, seed: int) -> Truth:
        """Return the exact outputs of a case, and the change under perturbations of ``seed``."""
        widened = Widened()
        truth = truth_of(lambda x: self._row([x], widened)[0], inputs, seed)
        own = self._copy.conversions(inputs)
        if not (widened.asked & own or self._copy.tables):
            return truth
        # how the outputs move by the module's own conversions
        wide = {**inputs, **floats_in_float64(inputs)}

        def coarse(number: int) -> Outputs:
            return self._row([wide], self._as_written(own, seed + number))[0]

        conversions = moves_of(truth.outputs, coarse, TABLE_DRAWS)
        return dataclasses.replace(truth, conversions=conversions)

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, Float64s]]:
        """Return the exact outputs of some inputs, nothing put back in between."""
        wide = [{**inputs, **floats_in_float64(inputs)} for inputs in calls]
        return self._row(wide, Widened())

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        """Say why the result on ``inputs`` is another one after the calls ``before``."""
        return cause_of(self._calls, before, inputs)

    def _row(
        self, calls: Sequence[Arrays], within: AbstractContextManager[object]
    ) -> list[dict[str, Float64s]]:
        outputs = self._calls.row(calls, within)
        return [{name: x.to(torch.float64).numpy() for name, x in row.items()} for row in outputs]

    @contextmanager
    def _as_written(self, own: frozenset[torch.dtype], seed: int) -> Iterator[None]:
        """Leave the module's own conversions as they are, and the tables in float32 off as much."""
        with self._copy.coarse_tables(seed), Widened(kept=own):
            yield


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # an attribute's own way of being copied may raise anything
        raise ParityError(
            f"{type(module).__name__} cannot be copied for the float64 oracle: "
            f"{type(error).__name__}: {error}; keep what cannot be copied (a lock, a file) out "
            "of the module",
            code="RX704",
        ) from error


class Widened(TorchFunctionMode):
    """Within it, torch functions that are asked for a narrower floating type return float64.

    Inside ropeexport's own ops nothing is widened: what they round is their contract.

    Parameters
    ----------
    kept : frozenset of torch.dtype
        Types that stay as they are asked for.

    Attributes
    ----------
    asked : set of torch.dtype
        The narrower types that were asked for.
    """

    def __init__(self, *, kept: frozenset[torch.dtype] = frozenset()) -> None:
        super().__init__()
        self.asked: set[torch.dtype] = set()
        self._widened = _NARROWER - kept

    def __torch_function__(
        self, func: Call, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func`` with float64 for the types that are widened."""
        named = kwargs or {}
        if func in _REINTERPRETS:
            return func(*args, **named)
        if func in _NORMS and (asked := named.get("dtype")) is not None:
            # they take no number that is wider than the type they are asked for
            return func(args[0].to(self._wide(asked)), *args[1:], **(named | {"dtype": None}))
        if func in _RMS_NORMS:
            args, named = _of_rms_norm(*args, **named), {}
        if func in _CASTS:
            cast = _CASTS[func]
            self.asked.add(cast)
            if cast not in self._widened:
                return func(*args, **named)
            return args[0].to(torch.float64, copy=True)
        result = _of_one_type(
            func, [self._wide(x) for x in args], {name: self._wide(x) for name, x in named.items()}
        )
        asked = {x for x in (*args, *named.values()) if isinstance(x, torch.dtype)}
        if args and result is args[0] and asked & self._widened:
            # what is narrowed is a copy, which the module's code may change in place
            return result.to(torch.float64, copy=True)
        return result

    def _wide(self, argument: Any) -> Any:
        if not isinstance(argument, torch.dtype):
            return argument
        self.asked |= {argument} & _NARROWER
        return torch.float64 if argument in self._widened else argument


def _of_rms_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> tuple[Any, ...]:
    """Return what a norm is given, and what torch adds to the mean square where nobody says it.

    That is float32's for every narrower type, and float64's for a copy in float64.
    """
    return x, shape, weight, torch.finfo(torch.float32).eps if eps is None else eps


def _of_one_type(func: Call, args: Sequence[Any], named: dict[str, Any]) -> Any:
    """Call a function; one that takes a single type, with its narrower tensors in float64.

    The weights of the copy are float64 wherever the module has them in float32.
    """
    try:
        return func(*args, **named)
    except RuntimeError:
        given = [x for x in pytree.tree_leaves((args, named)) if isinstance(x, Tensor)]
        types = {x.dtype for x in given}
        if torch.float64 not in types or not types & _NARROWER:
            raise
    wide_args, wide_named = pytree.tree_map_only(Tensor, _wider, (args, named))
    return func(*wide_args, **wide_named)


def _wider(x: Tensor) -> Tensor:
    return x.double() if x.dtype in _NARROWER else x
