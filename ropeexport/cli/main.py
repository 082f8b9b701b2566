"""The ``ropeexport`` command: its verbs load when they are called, so that ``--help`` is quick."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from ropeexport.cli.terminal import echo, guarded
from ropeexport.errors import EXIT_FAILURE, RopeExportError, first_line

# verb: the module of its click command, and the line that --help shows without importing it
_COMMANDS = {
    "export": ("making", "Trace a torch module to ONNX with the custom rotary op."),
    "fuse": ("making", "Replace the rotary applications of an ONNX file by the custom op."),
    "build": ("making", "Compile an exported model into a TensorRT engine."),
    "check": ("proving", "Prove how far each runtime is from a float64 oracle."),
    "run": ("running", "Run an exported folder once, on files or on random inputs."),
    "bench": ("proving", "Measure an export against what you would run instead."),
    "report": ("proving", "Write a parity run as HTML, Markdown or JUnit XML."),
    "inspect": ("reading", "Show the rotary ops of a file and what implements them."),
    "sign": ("trusting", "Sign an exported folder, every file of it."),
    "verify": ("trusting", "Say of each file of a folder whether it is what was signed."),
    "plugin": ("making", "Compile the TensorRT plugin for the rotary op."),
    "doctor": ("reading", "Show versions and what is missing, with the cure."),
}


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"ropeexport.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, line) for verb, (_, line) in _COMMANDS.items()])


@click.group(
    cls=_Verbs,
    epilog="Exit codes: 0 pass, 1 failure, 2 usage, 3 something is missing.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="ropeexport")
def cli() -> None:
    """Take torch attention with rotary position embedding to ONNX and TensorRT, proven equal."""


@guarded
def main() -> None:
    """Run the command; an error that the user can act on is one line, never a traceback."""
    try:
        cli(prog_name="ropeexport")
    except RopeExportError as error:
        echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of a pipe went away: nothing to say, nobody to hear it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILURE)
    except OSError as error:  # a full disk, a folder that may not be written, a file in its place
        # a write has no file's name, and some libraries give no text of the system's
        where = f"{error.filename}: " if error.filename is not None else ""
        echo(f"error: {where}{error.strerror or first_line(error)}", err=True)
        sys.exit(EXIT_FAILURE)


if __name__ == "__main__":
    main()
