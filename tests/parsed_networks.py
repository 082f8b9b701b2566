"""TensorRT-RTX's network of an exported file, which it parses on any machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ropeexport.artifact import Artifact
from ropeexport.profiles import make_profiles
from ropeexport.trt import flavour
from ropeexport.trt.child import BuildRequest
from ropeexport.trt.engine import Parsed, layers, parse
from ropeexport.trt.reporting import Journal, make_builder


def parsed(artifact: Artifact) -> Parsed:
    """Parse a folder's file as a build with ``--refit`` does, which needs no GPU."""
    chosen = flavour.load("tensorrt-rtx")
    journal = Journal(chosen)
    record = artifact.manifest
    request = BuildRequest(
        flavour=chosen.name, model=artifact.model_path, engine=Path("engine"),
        implementation="decomposed", profiles=make_profiles(record),
        ropes=record.model.ropes, plugin=None, embed_plugin=False, timing_cache=Path("cache"),
        refit=True,
    )  # fmt: skip
    return parse(chosen, request, make_builder(chosen, journal), journal)


def network_weights(network) -> dict[str, np.ndarray]:
    """Return the values of a network's constants and kernels, by the layer's name and role."""
    trt = flavour.load("tensorrt-rtx").module
    kinds = {
        trt.LayerType.CONSTANT: (trt.IConstantLayer, ("weights",)),
        trt.LayerType.CONVOLUTION: (trt.IConvolutionLayer, ("kernel", "bias")),
    }
    found = {}
    for layer in layers(network):
        if layer.type in kinds:
            name, (kind, roles) = layer.name, kinds[layer.type]
            layer.__class__ = kind
            found |= {f"{name} {role}": getattr(layer, role) for role in roles}
    return found
