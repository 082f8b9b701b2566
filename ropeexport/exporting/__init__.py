"""From a torch module, or a foreign ONNX file, to ``model.onnx`` and its manifest."""
