"""The child process: its events, its crashes, its end when the parent is interrupted."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from ropeexport.errors import BuildError, PluginError
from ropeexport.trt import child
from ropeexport.trt.messages import Probed, ProbeRequest

REQUEST = ProbeRequest(flavour="tensorrt-rtx", plugin=Path("lib.so"))
PROGRESS = '{"event":"progress","phase":"Building engine","fraction":0.5}'


@pytest.fixture
def worker(monkeypatch):
    """Replace the worker by a few lines of Python."""

    def replace(code: str) -> None:
        monkeypatch.setattr(child, "_COMMAND", (sys.executable, "-c", code))
        monkeypatch.setattr(child, "available_flavours", lambda: {"tensorrt-rtx": "1"})

    return replace


def test_result_and_progress(worker) -> None:
    worker(f"""print('{PROGRESS}'); print('{{"event":"probed","creators":[]}}')""")
    heard = []
    result = child.run(REQUEST, on_progress=lambda *event: heard.append(event))
    assert result == Probed(creators=())
    assert heard == [("Building engine", 0.5)]


def test_an_error_keeps_its_class(worker) -> None:
    worker("""print('{"event":"failure","kind":"BuildError","text":"no engine"}')""")
    with pytest.raises(BuildError, match=r"^no engine$"):
        child.run(REQUEST)


def test_a_crash_is_an_error_that_says_what_is_known(worker) -> None:
    worker("import os, sys; print('last words', file=sys.stderr, flush=True); os.abort()")
    with pytest.raises(PluginError, match=r"lib.so.*SIGABRT.*last words"):
        child.run(REQUEST)


def test_a_crash_in_the_middle_of_a_line(worker) -> None:
    worker("import os; print('{\"event\":\"prob', end='', flush=True); os.kill(os.getpid(), 11)")
    with pytest.raises(PluginError, match="SIGSEGV, without a word"):
        child.run(REQUEST)


def test_a_child_that_ends_without_a_result(worker) -> None:
    worker("raise SystemExit(7)")
    with pytest.raises(PluginError, match="with exit code 7"):
        child.run(REQUEST)


def test_an_interrupt_ends_the_child(worker, tmp_path) -> None:
    note = tmp_path / "pid"
    worker(
        f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid()));"
        f"print('{PROGRESS}', flush=True); time.sleep(60)"
    )

    def interrupt(phase: str, fraction: float) -> None:
        raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        child.run(REQUEST, on_progress=interrupt)
    assert time.monotonic() - begin < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


@pytest.mark.trt
def test_the_worker_refuses_nonsense_with_an_event(monkeypatch) -> None:
    request = REQUEST.model_copy(update={"flavour": "tensorrt-rtx", "plugin": Path(__file__)})
    with pytest.raises(PluginError, match="cannot load it as a plugin library"):
        child.run(request)
