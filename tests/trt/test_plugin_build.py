"""The compilers of ``ropeexport plugin build``: ended with the command that started them."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from made_workers import HEARS_SIGNALS, ended, state, wait_for

from ropeexport.errors import PluginError
from ropeexport.trt import plugin_build

COMPILE = "sleep 600 & echo $!; wait"  # CMake's place, and the compiler's
# what heeds no signal, prints to nobody, and gives what it starts a group of its own
DEAF = """trap '' TERM HUP
setsid sh -c 'trap "" TERM; echo $$; exec sleep 600 >/dev/null 2>&1' & wait
"""
PARENT = """
import sys
from ropeexport.trt import plugin_build
plugin_build.run_tool(["sh", "-c", sys.argv[1]], lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize("tool", [COMPILE, DEAF])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_ended_leaves_no_compiler(number, tool: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HEARS_SIGNALS + PARENT, tool],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        compiler = int(parent.stdout.readline())
        parent.send_signal(number)
        assert ended(parent) != 0
    wait_for(compiler, "", "Z")


@pytest.mark.parametrize("tool", [COMPILE, DEAF])
def test_what_fails_while_a_line_is_shown_ends_the_compilers_first(tool: str) -> None:
    shown = []

    def show(line: str) -> None:
        shown.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plugin_build.run_tool(["sh", "-c", tool], show)
    assert state(shown[0]) in ("", "Z")  # by now: the folder is the next command's


def test_a_compilation_that_fails_shows_its_errors() -> None:
    code = "echo fine; echo 'rope.cu:3: error: no such thing' >&2; exit 2"
    with pytest.raises(PluginError, match=r"^sh -c failed: rope\.cu:3: error: no such thing$"):
        plugin_build.run_tool(["sh", "-c", code], None)
