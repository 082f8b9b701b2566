"""One line a stage and a progress bar over the cases, on the standard error stream."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class CheckProgress(Progress):
    """A listener of :func:`ropeexport.parity.check.check` that prints."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False)
        super().__init__(
            TextColumn("  cases"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # a log file is no place for a bar
        )
        self._cases = self.add_task("", total=None)

    def __enter__(self) -> Self:  # the first case shows the bar
        return self

    def stage(self, name: str, text: str, ok: bool = True) -> None:
        """Print one line."""
        mark = "[green]✓[/]" if ok else "[yellow]✗[/]"
        self.console.print(f"{mark} {name:12} ", end="")
        self.console.print(text, markup=False, soft_wrap=True)

    def case(self, done: int, total: int, name: str) -> None:
        """Move the bar; the first case shows it."""
        self.start()
        self.update(self._cases, completed=done, total=total, description=name)
