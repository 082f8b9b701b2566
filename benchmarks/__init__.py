"""Measurements: every claim of speed or memory that ropeexport makes comes from here."""
