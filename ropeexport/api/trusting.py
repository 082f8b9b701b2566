"""``sign`` and ``verify``: who made a folder, and whether it is still what it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ropeexport.given import path_if, path_of
from ropeexport.locking import locks

if TYPE_CHECKING:
    from ropeexport.trust.verification import Signature, Verification


@locks("path", "sign")
def sign(
    path: str | Path, key: str | Path, *, password: str | None = None, force: bool = False
) -> Signature:
    """Sign an output folder: every file of it is hashed to its last byte, weights included.

    Reports (``parity.json``, ``bench.json``, ``pipeline/``) and ``timing.cache`` are no part of it.
    The folder may be moved and renamed afterwards.

    Parameters
    ----------
    path : path
        An output folder, whose files are those of its manifest.
    key : path
        A private key in PEM, of an elliptic curve (P-256, P-384 or P-521).
    password : str
        Of an encrypted key.
    force : bool
        Replace a signature that is there.

    Returns
    -------
    Signature
        The file that was written, ``model.sig``, and the names of those that it is of.

    Raises
    ------
    ModelFileError
        Where a file is not the one of the manifest.
    UsageError
        For a key that cannot be used, or a signature that is there already.
    MissingError
        Without model-signing: ``pip install 'ropeexport[sign]'``.
    LockedError
        Where another command is at work in the folder.

    Examples
    --------
    >>> import subprocess, ropeexport
    >>> made = ropeexport.export("flux-attention", out="out", heads=2, head_dim=16, length=32)
    >>> make = "openssl ecparam -name prime256v1 -genkey -noout -out private.pem".split()
    >>> take = "openssl ec -in private.pem -pubout -out public.pem".split()
    >>> for command in (make, take):
    ...     done = subprocess.run(command, check=True, capture_output=True)
    >>> ropeexport.sign("out", "private.pem").files
    ('manifest.json', 'model.onnx')
    >>> ropeexport.verify("out", key="public.pem").faults
    ()
    """
    from ropeexport.trust.verification import sign as run

    return run(path_of("path", path), path_of("key", key), password, force)


def verify(
    path: str | Path, key: str | Path | None = None, *, ignore_unsigned: bool = False
) -> Verification:
    """Say of each file of a folder whether it is what was signed.

    Without a key it is compared with the folder's manifest, which finds damage and mix-ups, and
    nothing that somebody wanted: the manifest may be theirs too.

    Parameters
    ----------
    path : path
        An output folder.
    key : path
        The public key of who signed it, from a source that you trust.
    ignore_unsigned : bool
        Let files lie there that were not signed; they are not listed then.

    Returns
    -------
    Verification
        With the status of each file, and ``faults``, those that are not what they were.

    Raises
    ------
    UntrustedError
        Where the signature is missing, or none of that key.
    UsageError
        For a file that is no public key.
    MissingError
        With a key, without model-signing: ``pip install 'ropeexport[sign]'``.

    Examples
    --------
    >>> import ropeexport
    >>> made = ropeexport.export("flux-attention", out="out", heads=2, head_dim=16, length=32)
    >>> {each.file: each.status for each in ropeexport.verify("out").files}
    {'manifest.json': 'no hash', 'model.onnx': 'verified'}
    """
    from ropeexport.trust.verification import verify as run

    return run(path_of("path", path), path_if("key", key), ignore_unsigned)
