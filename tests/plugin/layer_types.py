"""Child process: parse a model with a plugin library loaded and print the types of its layers.

``python layer_types.py MODEL LIBRARY``; TensorRT-RTX's own names of the types, one JSON list.
"""

from __future__ import annotations

import json
import sys

import tensorrt_rtx as trt


def main() -> None:
    model, library = sys.argv[1:]
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    assert builder.get_plugin_registry().load_library(library) is not None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(model), parser.get_error(0).desc()
    layers = (network.get_layer(index) for index in range(network.num_layers))
    print(json.dumps([layer.type.name for layer in layers]))


if __name__ == "__main__":
    main()
