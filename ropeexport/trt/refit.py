"""In the child process: engines whose weights can be exchanged, left out, or streamed.

The parser names a network's weights as the file's initializers are named, so a name of the module's
state dict is a name of the engine's, with the same values in the same order.  Source: TensorRT's
and TensorRT-RTX's Python API reference (BuilderFlag, INetworkDefinition, Refitter) and their
chapters on refitting; what a machine without a GPU builds is found out (docs/weights.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from ropeexport.dtypes import FLOATS
from ropeexport.errors import MissingError
from ropeexport.machine import find_gpu
from ropeexport.trt.child import BuildRequest
from ropeexport.trt.flavour import Flavour
from ropeexport.trt.reporting import Journal

_FLOATS = {kind.ir for kind in FLOATS if kind.tensorrt}


def require_wanted(flavour: Flavour, request: BuildRequest, builder: Any, journal: Journal) -> None:
    """Raise where a flavour, or this machine, cannot make the kind of engine that is asked for.

    Whether a flavour that needs no GPU needs one for this, its documents do not say: it is found
    out by one layer.
    """
    can = flavour.capabilities
    wanted = {
        "--refit": (request.refit, can.refit),
        "--strip": (request.strip, can.strip),
        "--weight-streaming": (request.weight_streaming, can.weight_streaming),
    }
    for option, (is_wanted, is_there) in wanted.items():
        if is_wanted and not is_there:
            raise MissingError(
                f"{option}: {flavour.name} {flavour.version} has no such engines; leave it out",
                code="RX407",
            )
    if request.refit and find_gpu() is None and not _refits_one_layer(flavour, builder):
        cause = journal.cause()
        raise MissingError(
            f"{'--strip' if request.strip else '--refit'}: {flavour.name} {flavour.version} makes "
            "an engine whose weights can be exchanged on a machine with an NVIDIA GPU only, and "
            f"there is none here ({cause}); build there",
            code="RX407",
        )


def _refits_one_layer(flavour: Flavour, builder: Any) -> bool:
    """Say whether an engine of one layer can be built, whose one weight can be exchanged."""
    trt = flavour.module
    network = builder.create_network(flavour.network_flags)
    weight = np.ones((1, 1), np.float32)  # which must outlive the build
    x = network.add_input("x", trt.DataType.FLOAT, (1, 1))
    constant = network.add_constant((1, 1), weight)
    added = network.add_elementwise(x, constant.get_output(0), trt.ElementWiseOperation.SUM)
    network.mark_output(added.get_output(0))
    network.set_weights_name(constant.weights, "weight")
    network.mark_weights_refittable("weight")
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.REFIT_INDIVIDUAL)
    return builder.build_serialized_network(network, config) is not None


def mark_refittable(
    network: Any, layers: Iterable[Any], weights: Mapping[str, ir.TensorProtocol]
) -> dict[str, str]:
    """Mark weights of a parsed network to be exchanged, and return those that cannot be, with why.

    The parser gives a network's weights the names that the file's initializers have.  Only these
    are marked: a constant that is nobody's parameter is left to be optimised.
    """
    shapes = {layer.name for layer in layers if _is_of_a_shape(layer)}
    fixed: dict[str, str] = {}
    for name, tensor in weights.items():
        if tensor.dtype not in _FLOATS:
            fixed[name] = f"{tensor.dtype.name} is no floating type of TensorRT's"
        elif name in shapes:
            fixed[name] = "a shape is computed of it"
        elif not network.mark_weights_refittable(name):
            fixed[name] = "computed with other weights when the file is parsed, or not used"
    return fixed


def _is_of_a_shape(layer: Any) -> bool:
    output = layer.get_output(0)
    return output is not None and bool(output.is_shape_tensor)
