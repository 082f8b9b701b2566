"""The floating types: one row says all that ropeexport knows of one.

Names are NumPy's (with ``ml_dtypes``), ``bfloat16`` included; other libraries' types follow from a
row, and the library is imported when its type is asked for.  A type that is no row here is an
integer, a boolean, or nothing that is rotated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    import torch
    from numpy.typing import NDArray

    Float64s = NDArray[np.float64]


@dataclass(frozen=True)
class FloatType:
    """A binary floating type.

    Parameters
    ----------
    name : str
        NumPy's and torch's.
    short : str
        In options and manifests: ``fp16``.
    precision, emin : int
        Significant bits, and the exponent of the smallest normal number, ``2**emin``.
    onnx, safetensors, tensorrt, openvino : str
        What each calls it; empty: it has none.
    exported : bool
        Whether a module is exported in it.
    numpys_own : bool
        Whether NumPy has it without ``ml_dtypes``; if not, others take its bits alone.
    """

    name: str
    short: str
    precision: int
    emin: int
    onnx: str
    safetensors: str
    tensorrt: str = ""
    openvino: str = ""
    exported: bool = True
    numpys_own: bool = True

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of rounding to nearest."""
        return float(2.0**-self.precision)

    @property
    def smallest_normal(self) -> float:
        """Below it, spacing no longer shrinks."""
        return float(2.0**self.emin)

    @property
    def underflow(self) -> float:
        """Largest absolute error of rounding below the smallest normal: half a subnormal."""
        return float(2.0 ** (self.emin - self.precision))

    def spacing(self, x: Float64s) -> Float64s:
        """Return the unit in the last place of each element of ``x`` in this type."""
        import numpy as np

        exponent = np.frexp(x)[1]
        spacing: Float64s = np.ldexp(1.0, np.maximum(exponent, self.emin + 1) - self.precision)
        return spacing

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """NumPy's dtype."""
        import ml_dtypes
        import numpy as np

        return np.dtype(getattr(ml_dtypes, self.name, self.name))

    @property
    def bits(self) -> np.dtype[np.generic]:
        """The integers that hold its bits."""
        import numpy as np

        return np.dtype(f"i{self.numpy.itemsize}")

    @property
    def torch(self) -> torch.dtype:
        """Torch's dtype."""
        import torch

        dtype: torch.dtype = getattr(torch, self.name)
        return dtype

    @property
    def onnx_type(self) -> int:
        """ONNX's number of it, a ``TensorProto.DataType``."""
        return int(self.ir)

    @property
    def onnx_text(self) -> str:
        """What a schema and onnxruntime call a tensor of it: ``tensor(float16)``."""
        return f"tensor({self.onnx.lower()})"

    @property
    def ir(self) -> ir.DataType:
        """The type in an onnx_ir graph."""
        import onnx_ir as ir

        return ir.DataType[self.onnx]


FLOATS = (
    FloatType("float64", "fp64", 53, -1022, "DOUBLE", "F64", openvino="f64", exported=False),
    FloatType("float32", "fp32", 24, -126, "FLOAT", "F32", "FLOAT", "f32"),
    FloatType("float16", "fp16", 11, -14, "FLOAT16", "F16", "HALF", "f16"),
    FloatType("bfloat16", "bf16", 8, -126, "BFLOAT16", "BF16", "BF16", "bf16", numpys_own=False),
)
BY_NAME = {kind.name: kind for kind in FLOATS}
EXPORTED = {kind.short: kind for kind in FLOATS if kind.exported}
DOUBLE, SINGLE = BY_NAME["float64"], BY_NAME["float32"]
HALVES = tuple(kind for kind in FLOATS if kind.precision < SINGLE.precision)


# what NumPy's own functions, and libraries that take its arrays, do not know
FOREIGN = {kind.name: kind for kind in FLOATS if not kind.numpys_own}


def float_type(dtype: str) -> FloatType:
    """Return a type by name.

    An integer or boolean output is held to float64: equal, for all that any bound can tell.
    """
    return BY_NAME.get(dtype, DOUBLE)


def is_float(dtype: str) -> bool:
    """Say whether a type, by name, is one of the floating types."""
    return dtype in BY_NAME


def short_name(dtype: str) -> str:
    """Return what manifests call a type: ``fp16``, or the name of one that is not exported."""
    kind = BY_NAME.get(dtype)
    return kind.short if kind is not None and kind.exported else dtype


def numpy_type(dtype: str) -> np.dtype[np.generic]:
    """Return NumPy's dtype by name, ``bfloat16`` included."""
    import numpy as np

    return BY_NAME[dtype].numpy if dtype in BY_NAME else np.dtype(dtype)


def largest_whole(dtype: str) -> int:
    """Return the largest number of a type of whole numbers, by name; 1 of Booleans.

    Examples
    --------
    >>> largest_whole("int32"), largest_whole("uint4"), largest_whole("bool")
    (2147483647, 15, 1)
    """
    import ml_dtypes

    made = numpy_type(dtype)
    return int(ml_dtypes.iinfo(made).max) if made.kind in "iuV" else 1


def held_in(array: NDArray[np.generic], dtype: str) -> NDArray[np.generic]:
    """Return an array in a type, by name, if that holds its very values, else as it is.

    NumPy has no bfloat16 of its own: such an array may have been saved as its bits.
    """
    import numpy as np

    wanted = numpy_type(dtype)
    if array.dtype.type is np.void:
        return array.view(wanted) if array.dtype.itemsize == wanted.itemsize else array
    if array.dtype == wanted:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = array.astype(wanted)
        same = np.array_equal(narrow.astype(array.dtype), array, equal_nan=array.dtype.kind == "f")
    return narrow if same else array
