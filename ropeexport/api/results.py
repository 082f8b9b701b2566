"""What ``export`` and ``fuse`` return: a folder that goes on to be built and checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropeexport.errors import UsageError
from ropeexport.manifest import EngineRecord, Manifest, Refusal, RopeCount

if TYPE_CHECKING:
    from ropeexport.models.sources import Module
    from ropeexport.parity.records import Report


@dataclass(frozen=True)
class Export:
    """What an export wrote; one rotary application is a q/k pair, or one tensor rotated alone.

    Parameters
    ----------
    folder : Path
        The output folder.
    manifest : Manifest
        What ``manifest.json`` says.
    module : optional
        What it was exported from, held as it is and not copied.
    """

    folder: Path
    manifest: Manifest
    module: Module | None = field(default=None, repr=False, compare=False)

    @property
    def found(self) -> int:
        """Rotary applications that the module has."""
        return self.manifest.model.recognition.found

    @property
    def replaced(self) -> int:
        """Those that are an op in the file."""
        return self.manifest.model.recognition.replaced

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """Those that are left as they were, each with its reason."""
        return self.manifest.model.recognition.refused

    def build(self, **options: Any) -> EngineRecord:
        """Build the engine, see :func:`ropeexport.build`."""
        from ropeexport.api.making import build

        return build(self.folder, **options)

    def check(self, **options: Any) -> Report:
        """Check the folder against the module that it was exported from.

        The options are those of :func:`ropeexport.check`.
        """
        from ropeexport.api.proving import check

        return check(self.folder, **{"module": self.module, **options})


@dataclass(frozen=True)
class Fusion:
    """What ``fuse`` found in a file, and wrote where there was something to replace.

    Parameters
    ----------
    folder : Path
        The output folder.
    manifest : Manifest or None
        What ``manifest.json`` says; None: nothing was replaced, and nothing written.
    count : RopeCount
        Rotary applications that were found, replaced and refused.
    """

    folder: Path
    manifest: Manifest | None
    count: RopeCount

    @property
    def found(self) -> int:
        """Rotary applications that the file has."""
        return self.count.found

    @property
    def replaced(self) -> int:
        """Those that are an op in the new file."""
        return self.count.replaced

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """Those that are left as they were, each with its reason."""
        return self.count.refused

    def build(self, **options: Any) -> EngineRecord:
        """Build the engine, see :func:`ropeexport.build`."""
        from ropeexport.api.making import build

        return build(self._written(), **options)

    def check(self, **options: Any) -> Report:
        """Check the folder against the file that it is made of, see :func:`ropeexport.check`."""
        from ropeexport.api.proving import check

        return check(self._written(), **options)

    def _written(self) -> Path:
        if self.manifest is None:
            raise UsageError(f"{self.folder}: nothing was replaced, so nothing was written")
        return self.folder
