"""What tests hold in their hands (tensors, arrays, tuples, dicts) to named NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropeexport.dtypes import FOREIGN

Arrays = dict[str, NDArray[np.generic]]


def named_arrays(values: Any, name: str) -> Arrays:
    """Return arrays by name.

    Parameters
    ----------
    values : array, tensor, or mapping or sequence of them
        None among them stays out: a missing output.
    name : str
        Of one array; those of a sequence are ``name[0]``, ``name[1]`` and so on.
    """
    if isinstance(values, Mapping):
        return {str(key): array(x) for key, x in values.items() if x is not None}
    if isinstance(values, (list, tuple)):
        return {f"{name}[{i}]": array(x) for i, x in enumerate(values) if x is not None}
    return {} if values is None else {name: array(values)}


def array(value: Any) -> NDArray[np.generic]:
    """Return a torch tensor, or whatever NumPy reads, as an array of the same type."""
    if hasattr(value, "detach"):  # a torch tensor, without importing torch to say so
        value = value.detach().cpu()
        kind = FOREIGN.get(str(value.dtype).removeprefix("torch."))
        if kind is not None:  # NumPy has none: float32 holds each exactly
            return np.asarray(value.float().numpy()).astype(kind.numpy)
        value = value.numpy()
    result: NDArray[np.generic] = np.asarray(value)
    if result.dtype == object:
        raise TypeError(f"expected an array, a tensor, or a mapping or sequence of them: {value!r}")
    return result
