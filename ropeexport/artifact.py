"""An output folder as one object: its manifest, and the files that it names.

Every verb reads a folder once, into an :class:`Artifact`, and hands that on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ropeexport import atomic, manifest
from ropeexport.errors import ManifestError, ModelFileError
from ropeexport.manifest import Manifest
from ropeexport.weights.safetensors_files import check_weights

if TYPE_CHECKING:
    from ropeexport.onnx_files.onnx_file import OnnxFile


@dataclass(frozen=True)
class Artifact:
    """An output folder and its manifest.

    Parameters
    ----------
    folder : Path
        Where the files lie that the manifest names.
    manifest : Manifest
        What they are; it need not be the one that is written there.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a folder's manifest, see :func:`ropeexport.manifest.read`."""
        return cls(folder, manifest.read(folder))

    def write(self) -> Self:
        """Write the manifest into the folder."""
        manifest.write(self.folder, self.manifest)
        return self

    def updated(self, **fields: Any) -> Self:
        """Return the folder with other fields of its manifest; nothing is written."""
        return type(self)(self.folder, self.manifest.changed(**fields))

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.folder / self.manifest.model.file

    @property
    def engine_path(self) -> Path | None:
        """The engine, where one was built."""
        return self.folder / self.manifest.engine.file if self.manifest.engine else None

    @cached_property
    def file(self) -> OnnxFile:
        """The ONNX file, whose graph is read when it is first asked for."""
        from ropeexport.onnx_files.onnx_file import OnnxFile

        return OnnxFile(self.model_path)

    @cached_property
    def model_sha256(self) -> str:
        """The hash of the ONNX file as it is now.

        Raises
        ------
        ModelFileError
            Where it is gone.
        """
        if not self.model_path.is_file():
            raise ModelFileError(
                f"{self.model_path}: no such file, though the manifest names it; export it again"
            )
        return atomic.sha256_of(self.model_path)

    @property
    def is_exported_file(self) -> bool:
        """Whether the ONNX file is the one that the manifest describes."""
        return self.model_sha256 == self.manifest.model.sha256

    def check_weights(self, *, hashed: bool | None = None) -> None:
        """Raise :class:`ModelFileError` for a weight file that is moved, truncated or altered.

        ``hashed`` says whether each is read to its last byte; by default those without a header.
        """
        check_weights(self.folder, self.manifest.model.weights, hashed=hashed)

    def check_interface(self) -> None:
        """Raise :class:`ManifestError` unless the file takes and gives what the manifest says."""
        from ropeexport.onnx_files.contract import check_interface

        check_interface(self.file.graph, self.manifest, self.folder)

    def require_exported_file(self, why: str = "") -> None:
        """Raise :class:`ModelFileError` unless the ONNX file is the one that was exported."""
        expected = self.manifest.model.sha256
        if not self.is_exported_file:
            raise ModelFileError(
                f"{self.model_path}: not the file that was exported: expected sha256 "
                f"{expected[:12]}…, got {self.model_sha256[:12]}…; {why}export again with --force"
            )

    @cached_property
    def original(self) -> OnnxFile:
        """The ONNX file that a folder of ``fuse`` was made of, as it was.

        Raises
        ------
        ManifestError
            Where it is gone, or another file by now.
        """
        from ropeexport.onnx_files.onnx_file import OnnxFile

        source, folder = self.manifest.source, self.folder
        cure = f"run 'ropeexport check ORIGINAL.onnx {folder}' with the file that it was made of"
        if "path" not in source.options:
            raise ManifestError(
                f"{folder}: made of {source.name}, whose place is not known; {cure}"
            )
        path = Path(os.path.normpath(folder / source.options["path"]))
        if not path.is_file():
            raise ManifestError(f"{folder}: made of {path}, which is no longer there; {cure}")
        if atomic.sha256_of(path) != source.options["sha256"]:
            raise ManifestError(f"{folder}: made of {path}, which is another file by now; {cure}")
        return OnnxFile(path)
