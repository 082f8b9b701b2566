"""Weights that stay where they are: safetensors files, referred to by file, offset and length."""
