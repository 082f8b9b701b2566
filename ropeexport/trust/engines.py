"""Whether an engine may be loaded: it can run code of whoever made it on this machine."""

from __future__ import annotations

from pathlib import Path

from ropeexport import manifest
from ropeexport.artifact import Artifact
from ropeexport.errors import UntrustedError
from ropeexport.manifest import EngineRecord
from ropeexport.trust import known


def require_trusted(
    artifact: Artifact, record: EngineRecord, library: Path | None = None, *, keeps: bool = True
) -> None:
    """Raise unless this user has built or trusted an engine, trusts it now, or its signer.

    Parameters
    ----------
    artifact : Artifact
        The output folder, with what its user allows.
    record : EngineRecord
        Its engine, whose file has the record's hash.
    library : Path, optional
        The plugin library that is loaded with it, which has its record's hash.  One that the user
        has named or compiled is theirs; one that lies in the folder is not.
    keeps : bool
        Whether trust that is given now is kept for the next load.

    Raises
    ------
    UntrustedError
        With what allows it.
    """
    wanted = {record.file: record.sha256}
    plugin = record.plugin
    if plugin is not None and library == artifact.folder / plugin.file:
        wanted[plugin.file] = plugin.sha256
    unknown = [name for name, sha256 in wanted.items() if not known.is_known(sha256)]
    if not unknown:
        return
    if artifact.trust.key is not None:
        from ropeexport.trust.signing import require_signed

        require_signed(artifact.folder, artifact.trust.key, (manifest.FILE_NAME,), wanted)
    elif not artifact.trust.engines:
        raise UntrustedError(
            f"{artifact.folder / unknown[0]}: neither built on this machine nor trusted yet, and "
            "it can run code of whoever made it: where you know who did, add --trust (trust=True), "
            "once; where the folder is signed, --key PUBLIC.pem (trust='PUBLIC.pem')",
            code="RX803",
        )
    for name in unknown if keeps else ():
        known.remember(wanted[name], f"trusted: {(artifact.folder / name).absolute()}")


def built_here(artifact: Artifact, record: EngineRecord) -> None:
    """Keep that this user has built an engine, with the library that was put beside it."""
    known.remember(record.sha256, f"built: {(artifact.folder / record.file).absolute()}")
    plugin = record.plugin
    if plugin is not None and not plugin.embedded:
        known.remember(plugin.sha256, f"put: {(artifact.folder / plugin.file).absolute()}")
