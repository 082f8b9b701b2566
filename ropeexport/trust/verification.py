"""What is known of each file of an output folder: by its signature, or by its manifest alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ropeexport import atomic, manifest, reading
from ropeexport.artifact import Artifact
from ropeexport.errors import ModelFileError
from ropeexport.links import require_weights
from ropeexport.manifest import ModelRecord, Record, WeightFile
from ropeexport.trust import signing
from ropeexport.weights.safetensors_files import weight_file

Status = Literal["verified", "header only", "changed", "missing", "not signed", "no hash"]
_WRONG = ("changed", "missing")


class FileStatus(Record):
    """A file, and what became of it.

    ``verified``: its last byte was read, and its hash is the one that was signed, or that the
    manifest has; ``header only``: of weights, the size and the header are; ``no hash``: nothing
    says what it was; ``not signed``: it lies beside what was.
    """

    file: str
    status: Status


class Verification(Record):
    """What :func:`ropeexport.verify` found.

    ``key`` is the public key; None: only the manifest, which may come from whoever changed the
    files, was asked.  ``unsigned`` says whether files may lie there that were not signed, and
    ``signature`` is the signature's file, where there is one: without a key it was not read.
    """

    folder: str
    key: str | None
    files: tuple[FileStatus, ...]
    unsigned: bool = False
    signature: str | None = None

    @property
    def faults(self) -> tuple[FileStatus, ...]:
        """The files that are not what they were."""
        wrong = _WRONG if self.unsigned else (*_WRONG, "not signed")
        return tuple(each for each in self.files if each.status in wrong)


class Signature(Record):
    """What :func:`ropeexport.sign` wrote: the signature's file, and the files that it is of."""

    file: str
    files: tuple[str, ...]


def sign(folder: Path, key: Path, password: str | None, force: bool) -> Signature:
    """Sign a folder whose files are those of its manifest."""
    artifact = Artifact.read(folder)
    place = folder / signing.SIGNATURE
    atomic.refuse_existing(place, force)
    atomic.require_replaceable(place)
    if place.exists():
        reading.check_regular(place)
    wrong = [each for each in by_manifest(artifact) if each.status in _WRONG]
    if wrong:
        raise ModelFileError(
            f"{folder}: not signed, as its files are not those of its manifest: "
            f"{', '.join(f'{each.file} is {each.status}' for each in wrong)}; export or build "
            f"again",
            code="RX807",
        )
    files = signing.sign_files(folder, key, password, _hashes(artifact))
    return Signature(file=str(place), files=files)


def verify(folder: Path, key: Path | None, unsigned: bool) -> Verification:
    """Say of each file whether it is what it was."""
    if key is None:
        files = tuple(by_manifest(Artifact.read(folder)))
    else:
        found = signing.compare_signed(folder, key, all_files=not unsigned)
        files = tuple(FileStatus(file=name, status=status) for name, status in found.items())
    named = str(key) if key is not None else None
    is_signed = os.path.lexists(folder / signing.SIGNATURE)
    return Verification(
        folder=str(folder),
        key=named,
        files=files,
        unsigned=unsigned,
        signature=signing.SIGNATURE if is_signed else None,
    )


def by_manifest(artifact: Artifact) -> Iterator[FileStatus]:
    """Yield each file that a manifest names, as far as it says what they were."""
    record, folder = artifact.manifest, artifact.folder
    yield FileStatus(file=manifest.FILE_NAME, status="no hash")
    yield _model(folder, record.model)
    engine = record.engine
    if engine is not None:
        yield _file(folder, engine.file, engine.sha256, engine.size)
        if engine.plugin is not None and not engine.plugin.embedded:
            plugin = engine.plugin
            yield _file(folder, plugin.file, plugin.sha256, plugin.size)
    for weights in record.model.weights.files if record.model.weights is not None else ():
        yield _weights(folder, weights)
    for name in record.cache.files if record.cache is not None else ():
        yield _file(folder, name, None)


def _hashes(artifact: Artifact) -> dict[str, str]:
    """Return the hashes that a manifest has of whole files."""
    model, engine = artifact.manifest.model, artifact.manifest.engine
    found = {model.file: model.sha256}
    if engine is not None:
        found[engine.file] = engine.sha256
        if engine.plugin is not None and not engine.plugin.embedded:
            found[engine.plugin.file] = engine.plugin.sha256
    return found


def _model(folder: Path, model: ModelRecord) -> FileStatus:
    path = folder / model.file
    try:
        if path.is_file():
            reading.check_message(path)
    except ModelFileError:  # far larger than any: its end would be long in coming
        return FileStatus(file=model.file, status="changed")
    return _file(folder, model.file, model.sha256)


def _file(folder: Path, name: str, sha256: str | None, size: int | None = None) -> FileStatus:
    path = folder / name
    if not path.is_file():  # in its place may be another thing
        status: Status = "changed" if os.path.lexists(path) else "missing"
    elif sha256 is None:
        status = "no hash"
    else:
        status = "verified" if atomic.has_content(path, sha256, size) else "changed"
    return FileStatus(file=name, status=status)


def _weights(folder: Path, expected: WeightFile) -> FileStatus:
    path = folder / expected.file
    if not os.path.lexists(path):
        return FileStatus(file=expected.file, status="missing")
    try:
        require_weights(path, folder)
        found = weight_file(path, hashed=expected.sha256 is not None)
    except ModelFileError:  # truncated, no safetensors file any more, or a link to another
        return FileStatus(file=expected.file, status="changed")
    whole: Status = "verified" if expected.sha256 is not None else "header only"
    return FileStatus(file=expected.file, status=whole if found == expected else "changed")
