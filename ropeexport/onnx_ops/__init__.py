"""The ONNX side of ropeexport's ops: names, function bodies and the translation from torch."""
