"""Every seeded fault, and what only looks like one."""

from __future__ import annotations

from mutants.attention import ATTENTION
from mutants.caches import CACHES
from mutants.equivalent import EQUIVALENTS
from mutants.mutant import Equivalent, Mutant
from mutants.norms import NORMS
from mutants.precision import PRECISION
from mutants.rotation import ROTATION

MUTANTS: tuple[Mutant, ...] = (*ROTATION, *PRECISION, *ATTENTION, *CACHES, *NORMS)

__all__ = ["EQUIVALENTS", "MUTANTS", "Equivalent", "Mutant"]
