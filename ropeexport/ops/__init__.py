"""The ops of ropeexport's ONNX domain: a file each, and ``registry.py``, which every stage asks."""
