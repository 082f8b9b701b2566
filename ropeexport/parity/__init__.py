"""Parity: cases times runtimes, compared with a float64 oracle and held to derived bounds."""
