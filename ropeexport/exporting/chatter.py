"""What torch and onnxscript say to their own developers, kept from the terminal.

Fake tensors' tracebacks, dumps of graphs, notes of what could not be folded: it is worth reading
only where an export fails, and is in a file then, which the error names.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from ropeexport.unexpected import log_of

_LIBRARIES = ("torch", "onnxscript", "onnx_ir")


class Heard(io.StringIO):
    """What was said."""

    def warned(self, *warning: Any, **_: Any) -> None:
        """Note a warning, as :func:`warnings.showwarning` is called."""
        self.write(warnings.formatwarning(*warning[:4]))

    def saved(self, error: BaseException) -> str:
        """Write it, and an error with its traceback, to a log, and return the log's path."""
        return log_of(error, self.getvalue())


@contextmanager
def quiet(heard: Heard | None = None, *, prints: bool = True) -> Iterator[Heard]:
    """Keep logs and warnings of torch's exporter from the terminal, and what is printed meanwhile.

    Parameters
    ----------
    heard : Heard
        Where it goes, by default a new one, which is returned.
    prints : bool
        Whether it holds for what is printed, too.
    """
    heard = heard if heard is not None else Heard()
    with ExitStack() as stack:
        for logger in map(logging.getLogger, _LIBRARIES):
            stack.enter_context(_redirected(logger, heard))
        if prints:
            stack.enter_context(redirect_stdout(heard))
            stack.enter_context(redirect_stderr(heard))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("default")
        warnings.showwarning = heard.warned
        yield heard


@contextmanager
def _redirected(logger: logging.Logger, heard: Heard) -> Iterator[None]:
    """Have a logger, and those below it, write there and nowhere else."""
    below = logging.root.manager.loggerDict
    own = [x for name, x in below.items() if f"{name}.".startswith(f"{logger.name}.")]
    former = [(x, list(x.handlers)) for x in own if isinstance(x, logging.Logger) and x.handlers]
    for each, handlers in former:
        for handler in handlers:
            each.removeHandler(handler)
    handler, propagate = logging.StreamHandler(heard), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)
        for each, handlers in former:
            for handler in handlers:
                each.addHandler(handler)
