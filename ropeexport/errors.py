"""One error class a stage, so that a caller knows where the road ended and with which exit code."""

from __future__ import annotations

import errno
from collections.abc import Mapping

EXIT_PASS = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_MISSING = 3

_OF_THE_SYSTEM = {
    errno.ENOSPC: "RX004", errno.EDQUOT: "RX004", errno.EFBIG: "RX004",
    errno.EACCES: "RX005", errno.EPERM: "RX005", errno.EROFS: "RX005",
    errno.ENOENT: "RX006",
}  # fmt: skip


class RopeExportError(Exception):
    """A failure that the user can act on: what, expected and got, and the next step.

    ``code`` names the kind of message for good, ``RX101``: docs/troubleshooting.md has an entry
    for each.  Where an error is made it is given as a literal; a class that makes its own text has
    it as an attribute.
    """

    exit_code = EXIT_FAILURE
    code = ""

    def __init__(self, text: str, *, code: str = "") -> None:
        super().__init__(text)
        self.code = code or type(self).code


class UsageError(RopeExportError):
    """The request itself is wrong: an unknown model, a malformed shape, an output that exists."""

    exit_code = EXIT_USAGE


class MissingError(RopeExportError):
    """Something that the request needs is not on this machine: a package, a GPU, a library."""

    exit_code = EXIT_MISSING


class ExportError(RopeExportError):
    """The module could not be written as ONNX, or the written file broke its contract."""


class AxisRangeError(ExportError):
    """A module does not take every size that a dynamic axis is meant for.

    ``bounds`` has the smallest and the largest that it takes, by the axis; None: no such bound.
    ``relations`` has axes that are no axes of their own, and what each is: ``2*_length``, ``past +
    length``, or another axis.
    """

    code = "RX202"

    def __init__(
        self,
        text: str,
        bounds: Mapping[str, tuple[int | None, int | None]],
        relations: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.bounds = bounds
        self.relations = relations or {}


class ModelFileError(RopeExportError):
    """An ONNX file is missing, unreadable, or not what its manifest says."""


class UnknownOperatorError(ModelFileError):
    """A runtime knows an operator, an opset or a version of an ONNX file not."""


class ManifestError(RopeExportError):
    """A manifest is missing, unreadable, or of a schema that this version does not know."""


class LockedError(RopeExportError):
    """Another command is at work in the folder that this one would write into."""


class BuildError(RopeExportError):
    """TensorRT could not build the engine that was asked for."""


class EngineError(RopeExportError):
    """An engine is unreadable, of another version or flavour, or not the one in the manifest."""


class PluginError(RopeExportError):
    """The rotary plugin library could not be compiled, found, loaded or recognised."""


class UntrustedError(RopeExportError):
    """What would run code of a stranger's and was not allowed to, or is not what its key signed."""


class ParityError(RopeExportError):
    """A parity run could not be set up; a difference that it found is a verdict, not an error."""


class NotComparableError(ParityError):
    """There is nothing to compare with: no result of a reference, or no number in it."""

    exit_code = EXIT_MISSING


class ChangedInputError(ParityError):
    """A reference changes an input in place, so what it returns is not all that it does."""

    code = "RX207"

    def __init__(self, name: str) -> None:
        super().__init__(f"changes its input {name!r} in place: return it as an output")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def code_of_the_system(error: OSError) -> str:
    """Return the code of what the system refuses, by its kind."""
    return _OF_THE_SYSTEM.get(error.errno or 0, "RX002")
