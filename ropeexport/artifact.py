"""An output folder as one object: its manifest, and the files that it names.

Every verb reads a folder once, into an :class:`Artifact`, and hands that on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ropeexport import atomic, manifest, reading
from ropeexport.errors import ManifestError, ModelFileError, UsageError
from ropeexport.links import require_own
from ropeexport.manifest import Manifest
from ropeexport.weights.safetensors_files import check_weights

if TYPE_CHECKING:
    from ropeexport.onnx_files.onnx_file import OnnxFile


@dataclass(frozen=True)
class Trust:
    """What may run of a folder that a stranger may have made; its manifest allows nothing.

    Parameters
    ----------
    engines : bool
        An engine, and the plugin library beside it, that this user has neither built nor trusted.
    key : Path, optional
        A public key: such an engine may run where the folder's signature is of that key.
    code : bool
        The code that a config of transformers, which the manifest names, brings along.
    """

    engines: bool = False
    key: Path | None = None
    code: bool = False

    @classmethod
    def of(cls, trust: bool | str | Path, code: bool = False) -> Self:
        """Return what a caller says: yes or no, or the file of a public key."""
        if isinstance(trust, str | Path):
            return cls(key=Path(trust), code=code)
        if not isinstance(trust, bool):
            raise UsageError(
                f"trust: expected True, False or a public key's file, got {trust!r}", code="RX110"
            )
        return cls(engines=trust, code=code)


NO_TRUST = Trust()


@dataclass(frozen=True)
class Artifact:
    """An output folder and its manifest.

    Parameters
    ----------
    folder : Path
        Where the files lie that the manifest names.
    manifest : Manifest
        What they are; it need not be the one that is written there.
    trust : Trust, optional
        What of it may run.
    """

    folder: Path
    manifest: Manifest
    trust: Trust = NO_TRUST

    @classmethod
    def read(cls, folder: Path, trust: Trust = NO_TRUST) -> Self:
        """Read a folder's manifest, see :func:`ropeexport.manifest.read`.

        Raises
        ------
        ManifestError
            Also where a link, or no regular file, lies in the place of a file that it names.
        UntrustedError
            Where a key was given, and the folder is not as it was signed with it.
        """
        found = manifest.read(folder)
        for name in (manifest.FILE_NAME, *found.files):
            require_own(folder / name, folder)
        if trust.key is not None:  # whatever is loaded of the folder then
            from ropeexport.trust.signing import require_signed

            require_signed(folder, trust.key, (manifest.FILE_NAME, *found.files))
        return cls(folder, found, trust)

    def write(self) -> Self:
        """Write the manifest into the folder."""
        manifest.write(self.folder, self.manifest)
        return self

    def updated(self, **fields: Any) -> Self:
        """Return the folder with other fields of its manifest; nothing is written."""
        return replace(self, manifest=self.manifest.changed(**fields))

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
                f"{self.model_path}: no such file, though the manifest names it; export it again",
                code="RX303",
            )
        reading.check_message(self.model_path)
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

    def require_current(self) -> None:
        """Raise :class:`ManifestError` where the folder has another model by now.

        Who writes a record of this one asks it last: a copy into the folder, or an older version of
        ropeexport, takes no lock.
        """
        if manifest.read(self.folder).model.sha256 != self.manifest.model.sha256:
            raise ManifestError(
                f"{self.folder}: expected the model that was read at the start, got another one: "
                "it was exported again meanwhile; nothing is written, run the command again",
                code="RX320",
            )

    def check_interface(self, *, outputs: bool = True) -> None:
        """Raise :class:`ManifestError` unless the file takes and gives what the manifest says."""
        from ropeexport.onnx_files.contract import check_interface

        check_interface(self.file.graph, self.manifest, self.folder, outputs=outputs)

    def require_exported_file(self, why: str = "") -> None:
        """Raise :class:`ModelFileError` unless the ONNX file is the one that was exported."""
        expected = self.manifest.model.sha256
        if not self.is_exported_file:
            raise ModelFileError(
                f"{self.model_path}: not the file that was exported: expected sha256 "
                f"{expected[:12]}…, got {self.model_sha256[:12]}…; {why}export again with "
                "--force, or get the folder again from whoever sent it",
                code="RX306",
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
                f"{folder}: made of {source.name}, whose place is not known; {cure}", code="RX307"
            )
        path = Path(os.path.normpath(folder / source.options["path"]))
        if not path.is_file():
            raise ManifestError(
                f"{folder}: made of {path}, which is no longer there; {cure}", code="RX307"
            )
        reading.check_message(path)
        if atomic.sha256_of(path) != source.options["sha256"]:
            raise ManifestError(
                f"{folder}: made of {path}, which is another file by now; {cure}", code="RX307"
            )
        return OnnxFile(path)
