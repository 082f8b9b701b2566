"""Decoding a small Llama with its cache: ropeexport beside what else runs such files."""
