"""The ``ropeexport`` command: its verbs load when they are called, so that ``--help`` is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import click

from ropeexport import stopping
from ropeexport.cli.terminal import echo, guarded
from ropeexport.errors import EXIT_FAILURE, RopeExportError, code_of_the_system, first_line
from ropeexport.unexpected import line_of, with_log

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

_USAGE, _UNEXPECTED, _INTERRUPTED = "RX001", "RX003", "RX007"
_HELP_ALONE = getattr(click.exceptions, "NoArgsIsHelpError", ())  # click's, from 8.2 on


class _Verbs(click.Group):
    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _refused_with_code():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _refused_with_code():
            return super().invoke(ctx)

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


@contextmanager
def _refused_with_code() -> Iterator[None]:
    """Put the code into click's refusals, and keep from it what it would misread."""
    try:
        yield
    except _HELP_ALONE:
        raise
    except click.UsageError as error:
        text = _with_code(error.format_message(), _USAGE)
        raise click.UsageError(text, error.ctx) from error
    except EOFError as error:  # a file that ends early: click takes it for Ctrl-D at a prompt
        _end(line_of(error), _UNEXPECTED)
    except KeyboardInterrupt:  # click would say "Aborted!"
        _end("interrupted", _INTERRUPTED)


def _with_code(text: str, code: str) -> str:
    """Return a message with its code at the end of its first line."""
    line, *more = text.split("\n")
    return "\n".join([f"{line} [{code}]" if code else line, *more])


def _end(text: str, code: str, exit_code: int = EXIT_FAILURE) -> NoReturn:
    echo(f"error: {text} [{code}]" if code else f"error: {text}", err=True)
    sys.exit(exit_code)


def _give_up(number: int) -> None:
    """End at once: a library computes on, and Python's handlers wait for it."""
    echo(
        "error: interrupted; a library computed on, so the process was ended, and the next command "
        f"in the folder clears what it left [{_INTERRUPTED}]",
        err=True,
    )
    stopping.end_now(number)


@guarded
def main() -> None:
    """Run the command; an error is one line, never a traceback."""
    try:
        with stopping.heard(_give_up):
            cli(prog_name="ropeexport")
    except RopeExportError as error:
        foreseen = error.code != _UNEXPECTED  # a child's, too
        text = str(error) if foreseen else with_log(str(error), error)
        _end(text, error.code, error.exit_code)
    except BrokenPipeError:  # the reader of a pipe went away: nothing to say, nobody to hear it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILURE)
    except OSError as error:  # a full disk, a folder that may not be written, a file in its place
        # a write has no file's name, and some libraries give no text of the system's
        where = f"{error.filename}: " if error.filename is not None else ""
        _end(f"{where}{error.strerror or first_line(error)}", code_of_the_system(error))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        _end(line_of(error), _UNEXPECTED)


if __name__ == "__main__":
    main()
