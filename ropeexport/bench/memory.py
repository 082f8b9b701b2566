"""The GPU's memory that one process holds, by what is left of it: the driver tells no more."""

from __future__ import annotations

from collections.abc import Callable


class HeldMemory:
    """Adds up what this process takes and gives back while all others stand still.

    The others take memory of their own between its turns, so what is left is compared within a
    turn only.

    Parameters
    ----------
    untaken : callable
        Returns the bytes that no process has taken.
    """

    def __init__(self, untaken: Callable[[], int]) -> None:
        self._untaken = untaken
        self._held = 0
        self.peak_bytes = 0  # the most that was held at an end
        self.begin()

    def begin(self) -> None:
        """Start to count."""
        self._before = self._untaken()

    def end(self) -> None:
        """Count what was taken since."""
        self._held += self._before - self._untaken()
        self.peak_bytes = max(self.peak_bytes, self._held)
