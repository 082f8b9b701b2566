"""Reading, questioning, holding to its contract and retyping an ONNX file."""
