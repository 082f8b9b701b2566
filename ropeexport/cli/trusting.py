"""``sign`` and ``verify``, and the options of the verbs that load an engine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ropeexport.cli.terminal import echo, echo_json
from ropeexport.cli.types import PATH


def trust_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--trust`` and ``--key``, which :func:`trusted` reads."""
    text = "Load an engine that is signed with this public key."
    command = click.option("--key", type=PATH, metavar="PUBLIC.pem", help=text)(command)
    text = "Load an engine that was not built here: it can run code on this machine."
    return click.option("--trust", is_flag=True, help=text)(command)


def trusted(given: dict[str, Any]) -> bool | Path:
    """Take both options out of those that were given: a key, or whether any engine may run."""
    trust, key = given.pop("trust"), given.pop("key")
    if trust and key is not None:
        raise click.UsageError("--trust: any engine, and --key: a signed one: give one of them")
    return bool(trust) if key is None else Path(key)


@click.command(name="sign")
@click.argument("folder", metavar="DIR", type=PATH)
@click.option(
    "--key", type=PATH, metavar="PRIVATE.pem", required=True, help="An elliptic curve's key."
)
@click.option(
    "--password",
    envvar="ROPEEXPORT_KEY_PASSWORD",
    show_envvar=True,
    help="Of an encrypted key; else a terminal is asked.",
)
@click.option("--force", is_flag=True, help="Replace the signature that is there.")
def sign_command(folder: Path, key: Path, password: str | None, force: bool) -> None:
    """Sign every file of DIR, weights included, into DIR/model.sig."""
    import ropeexport
    from ropeexport.trust.signing import is_encrypted

    source = click.get_current_context().get_parameter_source("password")
    if source == ParameterSource.ENVIRONMENT and not is_encrypted(key):
        password = None  # the environment has it for another key
    if password is None and sys.stdin.isatty() and is_encrypted(key):
        password = click.prompt(f"password of {key}", hide_input=True, err=True)
    made = ropeexport.sign(folder, key, password=password, force=force)
    echo(f"✓ sign     {made.file}: {len(made.files)} files")
    for name in made.files:
        echo(f"  {name}")


@click.command(name="verify")
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--key", type=PATH, metavar="PUBLIC.pem", help="Of who signed it.")
@click.option("--ignore-unsigned", is_flag=True, help="Let files lie there that are not signed.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify_command(folder: Path, key: Path | None, ignore_unsigned: bool, as_json: bool) -> None:
    """Say of each file of DIR whether it is what was signed.

    Without a key, whether it is what its manifest says, which whoever changed a file can change
    too.
    """
    import ropeexport
    from ropeexport.errors import EXIT_FAILURE

    found = ropeexport.verify(folder, key, ignore_unsigned=ignore_unsigned)
    if as_json:
        # names of other bytes than UTF-8 have escapes in JSON, which the record's own JSON has not
        echo_json(json.dumps(found.model_dump(), indent=1))
    else:
        width = max((len(each.file) for each in found.files), default=0)
        for each in found.files:
            mark = "✗" if each in found.faults else "✓" if each.status == "verified" else "-"
            echo(f"{mark} {each.file:{width}}  {each.status}")
        by = f"signed with {key}" if key is not None else "compared with its manifest alone"
        echo(f"verify: {len(found.files)} files, {len(found.faults)} wrong, {by}")
        if key is None and found.signature is not None:
            echo(f"note: {found.signature} was not read: --key PUBLIC.pem verifies it", err=True)
    if found.faults:
        raise SystemExit(EXIT_FAILURE)
