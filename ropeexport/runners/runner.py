"""The interface of a loaded model: arrays in, arrays out, in steps that can be timed apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ropeexport.errors import MissingError, ParityError
from ropeexport.manifest import CacheRecord, TensorSpec
from ropeexport.runners.kept_cache import KeptCache

if TYPE_CHECKING:
    from torch import Tensor

ROTATIONS_ONLY = frozenset({"native"})  # implementations that are right for no other matrices
Array = NDArray[np.generic]
Arrays = Mapping[str, Array]
Float64s = NDArray[np.float64]


@dataclass(frozen=True)
class Facts:
    """What a loaded model turned out to be.

    Parameters
    ----------
    version : str
        Of the runtime.
    implementation : tuple of str
        What computes the rope: ``function body``, ``plugin``, ...; several ropes may differ.
    provider : str
        What executes, where a runtime has several: an execution provider of onnxruntime.
    device : str
        ``cpu`` or ``cuda``.
    precision : tuple of str
        NumPy's names of the floating types that its operators compute in, the widest first, where
        the runtime says; else it computes in those of the file.
    attention : str
        How it computes attention, where the runner has chosen that.
    emulated : bool
        Whether it replaces a runtime that this machine lacks, and so proves nothing of any.
    """

    version: str = ""
    implementation: tuple[str, ...] = ()
    provider: str = ""
    device: str = ""
    precision: tuple[str, ...] = ()
    attention: str = ""
    emulated: bool = False

    @property
    def made_of(self) -> str:
        """The implementations in one word, and how attention is computed, for people."""
        return ", ".join(filter(None, ("+".join(self.implementation), self.attention)))

    @property
    def rotations_only(self) -> bool:
        """Whether it is right for matrices that are rotations only."""
        return not ROTATIONS_ONLY.isdisjoint(self.implementation)


class Runner(ABC):
    """A model in a runtime, as a context manager.

    Entering loads the model and fills ``facts``.  It raises
    :class:`ropeexport.errors.MissingError` where this machine lacks what the runtime needs, or the
    runtime lacks what the model needs, which a parity run reports as SKIPPED with the message.
    """

    facts: Facts = Facts()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the model go; by default there is nothing to do."""
        return

    def load(self, inputs: Arrays) -> Any:
        """Put inputs where the runtime takes them, on its device."""
        return inputs

    @abstractmethod
    def call(self, loaded: Any) -> Any:
        """Run the model once on what was loaded; opened to be timed, without waiting for a GPU."""

    def read(self, results: Any) -> dict[str, Array]:
        """Return the arrays of what a call gave; bfloat16 ones are of ``ml_dtypes.bfloat16``."""
        return dict(results)

    def run(self, inputs: Arrays, out: Arrays | None = None) -> dict[str, Array]:
        """Run the model once, arrays in, arrays out.

        Parameters
        ----------
        inputs : mapping of str to ndarray
            By name.
        out : mapping of str to ndarray, optional
            Arrays of the outputs' types and shapes, C-contiguous, that are filled and returned.
        """
        return filled(self.read(self.call(self.load(inputs))), out)

    def run_tensors(
        self, inputs: Mapping[str, Tensor], out: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Run the model once on torch's tensors, which lie on its device.

        On a GPU what is returned is ready in the order of torch's current stream.  On a CPU the
        runtime works in the tensors' own memory, where that is contiguous.
        """
        from ropeexport.runners.torch_arrays import array_from, tensor_from

        arrays = {name: array_from(x) for name, x in inputs.items()}
        if out is not None and all(x.is_cpu and x.is_contiguous() for x in out.values()):
            self.run(arrays, {name: array_from(x) for name, x in out.items()})
            return dict(out)
        results = {name: tensor_from(x) for name, x in self.run(arrays).items()}
        if out is None:
            device = next(iter(inputs.values())).device
            return {name: x.to(device) for name, x in results.items()}
        return {name: x.copy_(results[name]) for name, x in out.items()}

    def update(self, weights: Arrays) -> None:
        """Exchange weights of the loaded model; what is not named keeps the values that it has.

        Calls under way end on the old values; where it fails, all calls do.

        Parameters
        ----------
        weights : mapping of str to array
            By the names of the file's initializers, in their types and shapes, see
            :func:`ropeexport.weights.updating.new_values`.

        Raises
        ------
        MissingError
            Where the runtime cannot do that.
        """
        who = self.facts.version or type(self).__name__
        raise MissingError(
            f"{who}: cannot exchange the weights of a loaded model; load it in onnxruntime, or "
            "export the changed module",
            code="RX507",
        )

    def kept_cache(self, cache: CacheRecord, pasts: Sequence[TensorSpec], batch: int) -> KeptCache:
        """Return an empty cache for a batch of texts, see :class:`KeptCache`."""
        return KeptCache(self, cache, pasts, batch)

    def keep(self) -> None:
        """Keep what was compiled for this machine for the next load, where that can be."""
        return


class Repeatable(Protocol):
    """What can be run again: eager, the float64 oracle, an ONNX file, a module, a function."""

    def in_a_row(self, calls: Sequence[Arrays]) -> Sequence[Mapping[str, NDArray[Any]]]:
        """Return the outputs of each call in turn, nothing put back in between."""
        ...

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        """Say why the result on ``inputs`` is another one after the calls ``before``."""
        ...


class Reference(Repeatable, Protocol):
    """What the runtimes are compared with, and is therefore run again: eager, or a file."""

    name: str

    @property
    def facts(self) -> Facts:
        """What it turned out to be."""
        ...


def wanted(names: Sequence[str], inputs: Arrays, who: str) -> Arrays:
    """Return the inputs that a model takes, by name.

    Raises
    ------
    ParityError
        Where one is missing.
    """
    missing = [name for name in names if name not in inputs]
    if missing:
        raise ParityError(
            f"{who}: expected the inputs {', '.join(names)}, got {', '.join(inputs) or 'none'}",
            code="RX605",
        )
    return {name: inputs[name] for name in names}


def filled(results: dict[str, Array], out: Arrays | None) -> dict[str, Array]:
    """Return results, copied into the arrays of a caller where there are any."""
    if out is None:
        return results
    for name, array in out.items():
        np.copyto(array, results[name], casting="no")
    return dict(out)


def same_bits(one: Array, other: Array) -> bool:
    """Say whether two arrays are the same in type, shape and every bit: NaN equals itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.size == 0:
        return True
    mine, theirs = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (one, other))
    return bool(np.array_equal(mine, theirs))
