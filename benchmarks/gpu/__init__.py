"""The GPU's proof: exactness, sanitizer, engines and speed, as ``python -m benchmarks.gpu``.

Everything but the engines needs only torch with CUDA, nvcc, compute-sanitizer, click, pydantic and
rich, so that it runs on a machine without a network.
"""
