"""Seeded faults: exports broken on purpose, each to be caught by ``ropeexport check``."""
