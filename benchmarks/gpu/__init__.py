"""The GPU's proof: exactness, sanitizer, engines and speed, as ``python -m benchmarks.gpu``.

Everything but the engines needs only Python, torch with CUDA, nvcc and compute-sanitizer, so that
it runs on a machine without a network.
"""
