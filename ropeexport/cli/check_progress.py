"""One line a stage and a progress bar over the cases, on the standard error stream."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class CheckProgress:
    """A listener of :func:`ropeexport.parity.check.check` that prints."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("  cases"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,  # a log file is no place for a bar
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, text: str, ok: bool = True) -> None:
        """Print one line."""
        mark = "[green]✓[/]" if ok else "[yellow]✗[/]"
        self._console.print(f"{mark} {name:12} ", end="")
        self._console.print(text, markup=False, soft_wrap=True)

    def case(self, done: int, total: int, name: str) -> None:
        """Move the bar; the first case shows it."""
        self._progress.start()
        self._progress.update(self._task, completed=done, total=total, description=name)
