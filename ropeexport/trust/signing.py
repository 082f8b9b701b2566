"""Signatures of output folders: the one importer of OpenSSF's model-signing.

A signature is a file in the folder, a Sigstore bundle, with the hash of every other file; keys are
files, and nothing is asked of a network.  What the library says of a signature is the verdict here;
the bundle is read once more only to say which file departs.

Source: the library's ``signing`` and ``verifying``, and the format in its ``_signing/signing.py``.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ropeexport import atomic, reading
from ropeexport.errors import (
    ModelFileError,
    RopeExportError,
    UntrustedError,
    UsageError,
    first_line,
)
from ropeexport.machine import require

SIGNATURE = "model.sig"
# what verbs write beside a model, and what tools keep there: reports and notes, which are no part
_UNSIGNED = (
    SIGNATURE, "parity.json", "bench.json", "bench.png", "pipeline", "timing.cache", ".cache",
    ".ropeexport.lock",
)  # fmt: skip
_OF_GIT = (".git", ".gitattributes", ".github", ".gitignore")  # which the library leaves out
_KEYS = "an elliptic curve's (P-256, P-384 or P-521), in PEM; docs/trust.md says how to make one"


def sign_files(
    folder: Path, key: Path, password: str | None = None, expected: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Hash every file of a folder to its end, write the signature, and return their names.

    ``expected`` has hashes of files that were looked at before.

    Raises
    ------
    UsageError
        For a file that is no private key, or needs its password.
    ModelFileError
        For one that has another hash than expected by now.
    """
    require("model_signing", "OpenSSL")
    from model_signing import signing

    reading.check_regular(key)
    secret: Any = password.encode() if password else None
    try:
        config: Any = signing.Config()  # type: ignore[no-untyped-call]
        config.use_elliptic_key_signer(private_key=key, password=secret)
    except TypeError as error:
        cure = (
            "is not encrypted: leave the password out"
            if password
            else "is encrypted: give its password, by --password or ROPEEXPORT_KEY_PASSWORD"
        )
        raise UsageError(f"{key}: the private key {cure}", code="RX804") from error
    except Exception as error:  # of another kind of file the library may say anything
        if password and "password" in str(error):
            raise UsageError(
                f"{key}: the private key has another password", code="RX804"
            ) from error
        raise UsageError(
            f"{key}: expected a private key, {_KEYS}; {_fault_of(error)}", code="RX804"
        ) from error
    if key.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"{key}: the private key lies in the folder that is signed, and would go with it; keep "
            "it elsewhere",
            code="RX804",
        )
    _refuse_unsignable(folder)
    hashing = _hashing()
    with atomic.temporary_folder() as place:  # in the folder it would be signed itself
        made = place / SIGNATURE
        config.set_hashing_config(hashing).sign(folder, made)
        for name, sha256 in (expected or {}).items():
            if hashing.found.get(name) != sha256:
                raise ModelFileError(
                    f"{folder / name}: not signed: it was changed while it was read; export or "
                    "build again",
                    code="RX807",
                )
        atomic.write_bytes(folder / SIGNATURE, made.read_bytes())
    return tuple(hashing.found)


def is_encrypted(key: Path) -> bool:
    """Say whether a private key needs a password; of what cannot be read, signing says more."""
    try:
        return b"ENCRYPTED" in reading.read_bytes(key)
    except (OSError, RopeExportError):
        return False


def compare_signed(folder: Path, key: Path, *, all_files: bool = True) -> dict[str, str]:
    """Return what became of each file since a folder was signed with a key, by its name.

    ``verified``, ``changed``, ``missing`` or ``not signed``; the last only of ``all_files``.

    Raises
    ------
    UntrustedError, UsageError
        See :func:`_compared`.
    """
    found, hashes = _compared(folder, key, all_files=all_files)
    for name in _not_hashed(folder) if all_files else ():
        found[name] = "changed" if name in found and name not in hashes else "not signed"
    return found


def _not_hashed(folder: Path) -> Iterator[str]:
    """Yield what has no hash: pipes, devices, links to nothing, and links to folders."""
    for path in sorted(folder.rglob("*")):
        is_followed = path.is_file() or (path.is_dir() and not path.is_symlink())
        if not (is_followed or _is_left_out(path, folder)):
            yield path.relative_to(folder).as_posix()


def _is_left_out(path: Path, folder: Path) -> bool:
    """Say whether neither a signature nor a verdict is of a path."""
    return path.relative_to(folder).parts[0] in {*_UNSIGNED, *_OF_GIT}


def _compared(folder: Path, key: Path, *, all_files: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Return what became of each file, and the hash that it has, by its name.

    Raises
    ------
    UntrustedError
        Where the signature is missing, or none of that key.
    UsageError
        For a file that is no public key.
    """
    require("model_signing", "OpenSSL")
    from model_signing import verifying

    reading.check_regular(key)
    try:
        config: Any = verifying.Config()  # type: ignore[no-untyped-call]
        config.use_elliptic_key_verifier(public_key=key)
    except Exception as error:
        raise UsageError(
            f"{key}: expected a public key, {_KEYS}; {_fault_of(error)}", code="RX804"
        ) from error
    signature = folder / SIGNATURE
    if not os.path.lexists(signature):
        raise UntrustedError(
            f"{folder}: not signed: expected {SIGNATURE}, found none", code="RX805"
        )
    content = reading.read_bytes(signature, UntrustedError)
    _require_bundle(signature, content)
    said = _said(content)
    hashing = _hashing(None if all_files else said)
    with atomic.temporary_folder() as place:  # read once, so that both read the same
        copy = place / SIGNATURE
        copy.write_bytes(content)
        try:
            config.set_hashing_config(hashing).verify(folder, copy)
        except (RopeExportError, OSError):  # of a file that may not be read, too
            raise
        except Exception as error:
            if not hashing.was_asked:  # the signature is verified before anything is hashed
                raise UntrustedError(
                    f"{signature}: not signed with {key}, or changed since: {first_line(error)}",
                    code="RX806",
                ) from error
            return _departures(signature, said, hashing.found, error), hashing.found
    return dict.fromkeys(hashing.found, "verified"), hashing.found


def require_signed(
    folder: Path, key: Path, names: Iterable[str], hashes: Mapping[str, str] | None = None
) -> None:
    """Raise unless a folder's signature is of a key, holds, and has some files among its own.

    ``hashes`` are of what was read of further files, before this: that is what has to be signed.
    """
    read = hashes or {}
    statuses, found = _compared(folder, key, all_files=False)
    wanted = {**statuses, **{name: statuses.get(name, "not signed") for name in (*names, *read)}}
    for name, sha256 in read.items():
        if wanted[name] == "verified" and found[name] != sha256:
            wanted[name] = "changed"
    wrong = [f"{name} is {status}" for name, status in wanted.items() if status != "verified"]
    if wrong:
        raise UntrustedError(
            f"{folder}: not as it was signed with {key}: {', '.join(wrong)}", code="RX806"
        )


def _departures(
    signature: Path, said: Mapping[str, str], found: Mapping[str, str], error: Exception
) -> dict[str, str]:
    names = sorted({*said, *found})
    statuses = {name: _status(said.get(name), found.get(name)) for name in names}
    if all(status == "verified" for status in statuses.values()):
        raise UntrustedError(
            f"{signature}: does not fit its folder: {first_line(error)}", code="RX806"
        )
    return statuses


def _status(said: str | None, found: str | None) -> str:
    if said is None:
        return "not signed"
    if found is None:
        return "missing"
    return "verified" if said == found else "changed"


def _said(content: bytes) -> dict[str, str]:
    """Return the hash of each file that a bundle names, whoever has signed it; none: it is none."""
    try:
        payload = json.loads(content)["dsseEnvelope"]["payload"]
        resources = json.loads(base64.b64decode(payload))["predicate"]["resources"]
        return {str(each["name"]): str(each["digest"]) for each in resources}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _require_bundle(path: Path, content: bytes) -> None:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        fields = None
    if not (isinstance(fields, dict) and {"verificationMaterial", "dsseEnvelope"} <= set(fields)):
        raise UntrustedError(
            f"{path}: expected a signature, as 'ropeexport sign' writes it, got something else: "
            "get the folder again from whoever sent it",
            code="RX806",
        )


def _fault_of(error: Exception) -> str:
    """Say what the library has against a key."""
    if isinstance(error, AttributeError):  # it asks any key for its curve
        return "got one of another kind, RSA for example"
    return first_line(error).partition(" See ")[0]  # a page of another project's


def _refuse_unsignable(folder: Path) -> None:
    """Raise for a pipe, a device or a link to nothing in a folder, and for names of other bytes."""
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() and not _is_left_out(path, folder):
            reading.check_regular(path, ModelFileError)
            if not _is_text(path.name):
                raise ModelFileError(
                    f"{path}: expected a name in UTF-8, which a signature can hold, got another; "
                    "rename it",
                    code="RX808",
                )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _hashing(only: Mapping[str, str] | None = None) -> Any:
    """Return how a folder's files are hashed, which keeps what was found; ``only`` of some names.

    What is no file is passed over, at which the library stops.
    """
    from model_signing import hashing

    class Hashing(hashing.Config):
        """The library's, by whole files."""

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.found: dict[str, str] = {}
            self.was_asked = False
            self.use_file_serialization(hashing_algorithm="sha256", allow_symlinks=True)
            self.set_allow_symlinks(True)  # as a hub's cache has them: what they lead to is hashed
            self.set_ignored_paths(paths=_UNSIGNED)

        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
            """Return the folder's hashes."""
            self.was_asked = True
            home = Path(model_path)
            named = (home / name for name in only or () if ".." not in Path(name).parts)
            paths = home.rglob("*") if only is None else named
            files = [path for path in paths if path.is_file()]
            made = super().hash(model_path, files_to_hash=files)
            self.found = {x.identifier: x.digest.digest_hex for x in made.resource_descriptors()}
            return made

    return Hashing()
