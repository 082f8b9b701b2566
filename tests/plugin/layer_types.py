"""Child process: parse a model with a plugin library loaded and print what became of it.

``python layer_types.py MODEL LIBRARY [build]`` prints one JSON object: the types of the layers by
TensorRT-RTX's own names, the outputs' shapes, the errors that reached TensorRT's logger, and with
``build`` the bytes of an engine of the model, which has fixed sizes.
"""

from __future__ import annotations

import json
import sys

import tensorrt_rtx as trt


class Logger(trt.ILogger):
    """Keeps the errors."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity == trt.ILogger.ERROR:
            self.errors.append(message)


def main() -> None:
    model, library, *steps = sys.argv[1:]
    logger = Logger()
    builder = trt.Builder(logger)
    assert builder.get_plugin_registry().load_library(library) is not None
    logger.errors.clear()
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parsed = trt.OnnxParser(network, logger).parse_from_file(model)
    layers = [network.get_layer(index).type.name for index in range(network.num_layers)]
    outputs = [[*network.get_output(index).shape] for index in range(network.num_outputs)]
    plan = None
    if parsed and steps == ["build"]:
        plan = builder.build_serialized_network(network, builder.create_builder_config())
    result = {"layers": layers if parsed else None, "errors": logger.errors, "outputs": outputs}
    print(json.dumps({**result, "engine_bytes": plan.nbytes if plan is not None else None}))


if __name__ == "__main__":
    main()
