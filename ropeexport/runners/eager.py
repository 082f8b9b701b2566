"""Eager torch: a module called on arrays, again and again, and why it gives another result then.

Eager and the float64 oracle are such modules.  What their calls leave behind is put back; several
cases share one, each in a thread of its own, so a row of calls has the module to itself.

The cause of another result is asked for only once a difference was found.  The calls are repeated
with one thing held fixed at a time: what the module holds is put back, or every generator of random
numbers gets the same seed; what makes the difference go away is its cause.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ropeexport.errors import ChangedInputError
from ropeexport.runners.module_state import ModuleState, Place
from ropeexport.runners.registry import EAGER
from ropeexport.runners.runner import Array, Arrays, Facts, Runner, same_bits
from ropeexport.runners.torch_arrays import array_from, caller, tensor_from

_SEED = 0
_MOST_NAMES = 3
_NOT_THE_USERS = tuple(
    f"{Path(place).parents[depth]}{os.sep}" for place, depth in ((torch.__file__, 0), (__file__, 1))
)
# What a call returns, or how it failed
_Result = dict[str, Any] | str


class EagerRunner(Runner):
    """Runs a module as it is.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode.
    output_names : sequence of str
        Names of what it returns, in order.
    device : str, optional
        A torch device; the first GPU where torch has one, else the CPU.
    """

    name = EAGER

    def __init__(
        self, module: nn.Module, output_names: Sequence[str], device: str | None = None
    ) -> None:
        self._module = module
        self._output_names = tuple(output_names)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.facts = Facts(torch.__version__, (EAGER,), device=self.device)
        self._calls: ModuleCalls | None = None

    def __enter__(self) -> Self:
        self._module.to(self.device)
        self._calls = None
        return self

    def close(self) -> None:
        """Let the model go."""
        self._module.to("cpu")
        self._calls = None

    def call(self, loaded: Arrays) -> dict[str, Array]:
        """Run the module once; whatever earlier runs have left in it is put back first."""
        return self.in_a_row([loaded])[0]

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, Array]]:
        """Run the module once for each of some inputs, nothing put back in between."""
        rows = self.calls.row(calls)
        return [{name: array_from(x) for name, x in row.items()} for row in rows]

    @property
    def calls(self) -> ModuleCalls:
        """The module on its device, with the state that it was entered in."""
        if self._calls is None:
            self._calls = ModuleCalls(self._module, self._output_names, self.device)
        return self._calls

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        """Say why the result on ``inputs`` is another one after the calls ``before``."""
        return cause_of(self.calls, before, inputs)


class ModuleCalls:
    """Calls a module; what it holds is put back before each row of calls.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode, on ``device``.
    output_names : sequence of str
        Names of what it returns, in order.
    device : str
        A torch device.
    may_change_inputs : bool
        Whether an input that was changed in place is no error: each call has copies anyway.

    Attributes
    ----------
    state : ModuleState
        What the module held when this was made.
    turn : RLock
        Whoever has acquired it has the module to itself.
    """

    def __init__(
        self,
        module: nn.Module,
        output_names: Sequence[str],
        device: str = "cpu",
        *,
        may_change_inputs: bool = False,
    ) -> None:
        self.state = ModuleState(module)
        self.turn = RLock()
        self.device = device
        self._may_change_inputs = may_change_inputs
        self._caller = caller(module, output_names)

    def row(
        self, calls: Sequence[Arrays], within: AbstractContextManager[object] | None = None
    ) -> list[dict[str, Tensor]]:
        """Call the module once for each of some inputs, nothing put back in between.

        Parameters
        ----------
        calls : sequence of mapping
            The inputs of each call, by name.
        within : context manager, optional
            Entered once the state is back and the module is ours.

        Raises
        ------
        ChangedInputError
            Where it changes an input in place.
        """
        with self.turn:
            self.state.restore()
            with within or nullcontext():
                return [self.call(inputs) for inputs in calls]

    @torch.no_grad()
    def call(self, inputs: Arrays) -> dict[str, Tensor]:
        """Call the module as it is now, on copies of its inputs."""
        copies = {name: tensor_from(x).to(self.device, copy=True) for name, x in inputs.items()}
        outputs = self._caller(copies)
        if not self._may_change_inputs:
            for name, x in inputs.items():
                if not same_bits(array_from(copies[name]), x):
                    raise ChangedInputError(name)
        # a module may return its own buffer, which the next call would change
        return {name: x.clone() for name, x in outputs.items()}


def cause_of(calls: ModuleCalls, before: Sequence[Arrays], inputs: Arrays) -> str:
    """Say why the result on some inputs depends on the calls before it.

    Parameters
    ----------
    calls : ModuleCalls
        The module.
    before : sequence of mapping
        The inputs of the calls that came first.
    inputs : mapping
        Those of the call whose result is another one.
    """
    with calls.turn, generators_kept():
        search = _Search(calls, before, inputs)
        drawn, changed = search.observe()
        if changed and search.agrees(state=True):
            return _state_text(search.culprits(changed))
        if drawn and search.agrees(seeds=True):
            return _random_text(drawn)
        if changed and drawn and search.agrees(state=True, seeds=True):
            return f"{_state_text(search.culprits(changed, seeds=True))}; and {_random_text(drawn)}"
        # a generator of the module's own, which no seed of ours reaches
        owned = [draw for draw in drawn if draw.owned]
        return _random_text(owned) if owned else _unknown_text(calls)


@dataclass(frozen=True)
class _Draw:
    """Random numbers that were drawn: by an operator of torch, or from a generator of Python."""

    what: str
    line: str = ""
    owned: bool = False  # from a generator that the operator was given

    def __str__(self) -> str:
        return self.what + (f" at {self.line}" if self.line else "")


@dataclass(frozen=True)
class _Search:
    calls: ModuleCalls
    before: Sequence[Arrays]
    inputs: Arrays

    def observe(self) -> tuple[list[_Draw], list[Place]]:
        """Make the calls; return the random numbers drawn and the places that have changed."""
        self.calls.state.restore()
        states = _generator_states()
        with _SeesRandomOperators() as seen:
            for inputs in self.before:
                self._call(inputs)
            changed = self.calls.state.changes()
            self._call(self.inputs)
        moved = [name for name, state in _generator_states().items() if state != states[name]]
        return [*seen.draws, *(_Draw(name) for name in moved)], changed

    def agrees(
        self, *, state: bool = False, seeds: bool = False, only: Place | None = None
    ) -> bool:
        """Say whether the result is that of a fresh module once some things are held fixed."""

        def result_after(before: Sequence[Arrays]) -> _Result:
            self.calls.state.restore()
            if seeds:
                _seed()
            for inputs in before:
                self._call(inputs)
            if state:
                self.calls.state.restore(only)
            if seeds:
                _seed()
            return self._call(self.inputs)

        return _equal(result_after([]), result_after(self.before))

    def culprits(self, changed: Sequence[Place], *, seeds: bool = False) -> list[Place]:
        """Return the one place that explains the difference, else all that have changed."""
        for place in changed:
            if self.agrees(state=True, seeds=seeds, only=place):
                return [place]
        return list(changed)

    def _call(self, inputs: Arrays) -> _Result:
        try:
            return {name: array_from(x) for name, x in self.calls.call(inputs).items()}
        except Exception as error:  # the user's code may raise anything after a call of its own
            return f"{type(error).__name__}: {error}"


class _SeesRandomOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes down each operator that draws from torch's generator, and who called it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws: list[_Draw] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
            return func(*args, **named)
        owned = [x for x in (*args, *named.values()) if isinstance(x, torch.Generator)]
        before = _torch_states(owned)
        result = func(*args, **named)
        draw = _Draw(func.name().partition(".")[0], _users_line(), bool(owned))
        # an attention has the tag for its dropout, and draws nothing where that is 0
        if _torch_states(owned) != before and draw not in self.draws:
            self.draws.append(draw)
        return result


def _torch_states(owned: Sequence[torch.Generator]) -> list[bytes]:
    """Return the states of torch's own generators, or of those that an operator was given."""
    states = [generator.get_state() for generator in owned]
    if not owned:
        states = [torch.random.get_rng_state()]
        states += torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [state.numpy().tobytes() for state in states]


def _users_line() -> str:
    """Return the innermost line that is neither torch's nor ours."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if not file.startswith((*_NOT_THE_USERS, "<")):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _generator_states() -> dict[str, object]:
    """Return the states of Python's and NumPy's generators, by the name that a user knows."""
    _, keys, place, *gauss = np.random.get_state(legacy=True)
    return {
        "Python's random": random.getstate(),
        "NumPy's random": (np.asarray(keys).tobytes(), place, *gauss),
    }


def _seed() -> None:
    torch.manual_seed(_SEED)
    random.seed(_SEED)
    np.random.seed(_SEED)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Give the caller's generators their states back."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _equal(one: _Result, other: _Result) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return one.keys() == other.keys() and all(same_bits(x, other[name]) for name, x in one.items())


def _state_text(places: Sequence[Place]) -> str:
    shown = " and ".join(map(str, places[:_MOST_NAMES]))
    if len(places) == 1:
        return (
            f"{shown} changes from call to call: take it as an input of forward and return the "
            "changed one as an output"
        )
    more = f" and {len(places) - _MOST_NAMES} more" if len(places) > _MOST_NAMES else ""
    return (
        f"{shown}{more} change from call to call: take them as inputs of forward and return the "
        "changed ones as outputs"
    )


def _random_text(drawn: Sequence[_Draw]) -> str:
    shown = ", ".join(map(str, drawn[:_MOST_NAMES]))
    return (
        f"it draws random numbers although it is in evaluation mode ({shown}): leave them out, or "
        "make them an input"
    )


def _unknown_text(calls: ModuleCalls) -> str:
    on_gpu = ", or an operator that adds in no fixed order on a GPU" * (calls.device != "cpu")
    return (
        "neither what the module holds nor a random generator that is known explains it; what it "
        f"reads elsewhere does (a global variable, a closure, a clock, a file{on_gpu}): make that "
        "an input"
    )
