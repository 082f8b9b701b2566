"""What ``export`` and ``fuse`` return: a folder that goes on to be built and checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropeexport.artifact import Artifact
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
    artifact : Artifact
        The output folder as one object.
    module : optional
        What it was exported from, held as it is and not copied.
    """

    artifact: Artifact
    module: Module | None = field(default=None, repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.artifact.folder

    @property
    def manifest(self) -> Manifest:
        """What ``manifest.json`` says."""
        return self.artifact.manifest

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
        Where the output folder is, or would be.
    artifact : Artifact or None
        The output folder as one object; None: nothing was replaced, and nothing written.
    count : RopeCount
        Rotary applications that were found, replaced and refused.
    """

    folder: Path
    artifact: Artifact | None
    count: RopeCount

    @property
    def manifest(self) -> Manifest | None:
        """What ``manifest.json`` says, where it was written."""
        return self.artifact.manifest if self.artifact is not None else None

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
        if self.artifact is None:
            raise UsageError(f"{self.folder}: nothing was replaced, so nothing was written")
        return self.folder
