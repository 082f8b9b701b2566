"""The worker: a process that has imported everything, and forks a command for each order.

It is a script and no module of the package: it knows the command line's entry and nothing else.
An order is a JSON object on a line of standard input, its answer one on standard output.
"""

from __future__ import annotations

import atexit
import gc
import json
import mmap
import os
import resource
import runpy
import select
import signal
import struct
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from typing import Any

GIGABYTE = 1 << 30
OPERATIONS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link",
              "os.symlink", "os.chmod", "shutil.rmtree", "shutil.move"}  # fmt: skip
GRACE_SECONDS = 2.0  # for what the kernel ends with the command
ADDRESS_SPACE = 6 * GIGABYTE


def main() -> None:
    """Do orders until there are no more."""
    entry = sys.argv[1]  # package.module:function, or file.py:function
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in sys.argv[2:]:
        import_module(name)
    module, function = entry.split(":")
    of_file = module.endswith(".py")
    enter = (runpy.run_path(module) if of_file else vars(import_module(module)))[function]
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        started = time.monotonic()
        counted = mmap.mmap(-1, 8)  # shared with the fork
        if (process := os.fork()) == 0:
            _become(order)
            if order["alone"]:
                os.execv(sys.executable, [sys.executable, "-P", "-m", "ropeexport", *order["argv"]])
            _count(counted, *order["kill"])
            _enter(enter)
        answer = _waited(process, order["deadline"], started)
        answer["operations"] = struct.unpack("q", counted[:8])[0]
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _become(order: dict[str, Any]) -> None:
    os.setsid()
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    tempfile.tempdir = None  # of the environment before
    sys.argv = ["ropeexport", *order["argv"]]
    streams = ((0, os.devnull, os.O_RDONLY), (1, order["output"], os.O_WRONLY),
               (2, order["errors"], os.O_WRONLY))  # fmt: skip
    for stream, name, mode in streams:
        opened = os.open(name, mode)
        os.dup2(opened, stream)
        os.close(opened)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _count(counted: mmap.mmap, last: int, number: int) -> None:
    """Count what changes files; at the last that is allowed, the process gets a signal."""
    done = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if event in OPERATIONS or (event == "open" and _writes(arguments)):
            done += 1
            counted[:8] = struct.pack("q", done)
            if done == last:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def _writes(arguments: tuple[Any, ...]) -> bool:
    path, mode, flags = arguments
    if not isinstance(path, str) or path.startswith(("/dev/", "/proc/")):
        return False
    return bool((flags or 0) & (os.O_WRONLY | os.O_RDWR)) or "w" in str(mode)


def _enter(enter: Any) -> None:
    """End as the interpreter would, without what it does for modules that the parent shares."""
    code: Any = 0
    try:
        enter()
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit((code or 0) & 0xFF)


def _waited(process: int, deadline: float, started: float) -> dict[str, Any]:
    pidfd = os.pidfd_open(process)
    hung = not select.select([pidfd], [], [], deadline)[0]
    os.close(pidfd)
    if hung:
        os.killpg(process, signal.SIGKILL)
    _, status, used = os.wait4(process, 0)
    seconds = time.monotonic() - started
    left = _killed(process)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "hung": hung,
        "seconds": seconds,
        "megabytes": used.ru_maxrss >> 10,
        "left": left,
    }


def _killed(group: int) -> bool:
    """End what a command has left of its processes, and say whether there were any."""
    until = time.monotonic() + GRACE_SECONDS
    try:
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(0.02)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
