"""What a mutant is: a fault that an export has suffered, where it is made and where it shows."""

from __future__ import annotations

from dataclasses import dataclass

from mutants.edits import Edit

ALL = ("fp32", "fp16", "bf16")
HALVES = ("fp16", "bf16")
Q, K, OUT = "q_rotated", "k_rotated", "out"
BOTH = (Q, K)
EVERYWHERE = (Q, K, OUT)


@dataclass(frozen=True)
class Mutant:
    """A seeded fault.

    Parameters
    ----------
    name : str
        Of the fault.
    story : str
        How a real export comes by it.
    edit : callable
        Breaks the graph of a model in place.
    seen_at : tuple of str
        The outputs that must fail, each in some case.
    kind : str
        Of the model, see :data:`mutants.models.KINDS`.
    dtypes : tuple of str
        Types that it is made in.
    lengths : tuple of int
        Of the cases.
    count : int, optional
        Of the cases, where fewer than all of those lengths do.
    """

    name: str
    story: str
    edit: Edit
    seen_at: tuple[str, ...] = EVERYWHERE
    kind: str = "matrices"
    dtypes: tuple[str, ...] = ALL
    lengths: tuple[int, ...] = (9, 33)
    count: int | None = None


@dataclass(frozen=True)
class Equivalent:
    """An edit that changes nothing that can be seen at ``unseen_at``, with the proof."""

    name: str
    proof: str
    edit: Edit
    unseen_at: tuple[str, ...]
    kind: str = "matrices"
    dtypes: tuple[str, ...] = ALL
    lengths: tuple[int, ...] = (9, 33)
    count: int | None = None
