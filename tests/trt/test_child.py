"""TensorRT's child process: what a user reads of its failures and crashes."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_workers import state, write_worker

from ropeexport.errors import BuildError, MissingError, PluginError
from ropeexport.manifest import Profile
from ropeexport.trt import child
from ropeexport.trt.child import BuildRequest, Creator, Probed, ProbeRequest

PROBE = ProbeRequest(flavour="tensorrt-rtx", plugin=Path("lib.so"))
BUILD = BuildRequest(
    flavour="tensorrt-rtx",
    model=Path("model.onnx"),
    engine=Path("model.engine"),
    implementation="decomposed",
    profile=Profile(min={}, opt={}, max={}),
    ropes=(),
    plugin=None,
    embed_plugin=False,
    timing_cache=Path("timing.cache"),
)
WORKER = """
import os, sys, time
from ropeexport import errors
from ropeexport.child_process import serve
from ropeexport.trt.child import BuildRequest, Built, Creator, Probed, ProbeRequest

def work(request, channel):
    channel.progress("Building engine", 0.5)
    {code}

serve({{BuildRequest: work, ProbeRequest: work}})
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Replace what TensorRT's child does by a line of Python."""

    def replace(code: str) -> None:
        name = write_worker(tmp_path, monkeypatch, WORKER.format(code=code))
        monkeypatch.setattr(child, "_WORKER", name)
        monkeypatch.setattr(child, "available_flavours", lambda: {"tensorrt-rtx": "1"})

    return replace


def test_a_probe_returns_what_a_library_registers(worker) -> None:
    worker("return Probed(creators=[Creator(name='a', version='1', namespace='')])")
    assert child.probe(PROBE) == Probed(creators=(Creator(name="a", version="1", namespace=""),))


def test_a_build_returns_its_engine_and_tells_of_its_progress(worker) -> None:
    fields = "inputs={'q': 'HALF'}, outputs={}, ropes={}, attention='none', compute_capabilities=()"
    worker(f"channel.note('slow'); return Built(version=str(request.model), {fields})")
    heard = []
    built = child.build(BUILD, lambda *event: heard.append(event), heard.append)
    assert (built.version, built.inputs) == ("model.onnx", {"q": "HALF"})
    assert heard == [("Building engine", 0.5), "slow"]


@pytest.mark.parametrize("kind", [BuildError, MissingError])
def test_an_error_keeps_its_class(worker, kind) -> None:
    worker(f"raise errors.{kind.__name__}('no engine')")
    with pytest.raises(kind, match=r"^no engine$"):
        child.build(BUILD)


def test_an_error_that_nobody_foresaw_is_of_the_build(worker) -> None:
    worker("raise ValueError('odd')")
    text = r"^unexpected error in the build process: ValueError: odd$"
    with pytest.raises(BuildError, match=text):
        child.build(BUILD)


def test_a_crash_is_an_error_that_says_what_is_known(worker) -> None:
    worker("print('last words', file=sys.stderr); os.abort()")
    with pytest.raises(
        PluginError,
        match=r"^lib\.so: loading it ended the process by SIGABRT; it said: last words; this is no",
    ):
        child.probe(PROBE)
    text = r"^tensorrt-rtx ended by SIGABRT while it built model\.onnx; it said: last words$"
    with pytest.raises(BuildError, match=text):
        child.build(BUILD)


def test_a_crash_in_the_middle_of_a_line(worker) -> None:
    worker('os.write(int(sys.argv[1]), b\'{"event":"resu\'); os.kill(os.getpid(), 11)')
    with pytest.raises(PluginError, match="SIGSEGV, without a word"):
        child.probe(PROBE)


def test_a_child_that_ends_without_a_result(worker) -> None:
    worker("raise SystemExit(7)")
    with pytest.raises(PluginError, match="with exit code 7"):
        child.probe(PROBE)


def test_an_interrupt_ends_the_child(worker) -> None:
    worker("channel.note(str(os.getpid())); time.sleep(600)")
    pids = []

    def interrupt(text: str) -> None:
        pids.append(int(text))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child.build(BUILD, on_note=interrupt)
    assert not state(*pids)


@pytest.mark.trt
def test_the_worker_refuses_nonsense_with_an_event() -> None:
    request = PROBE.model_copy(update={"plugin": Path(__file__)})
    with pytest.raises(PluginError, match="cannot load it as a plugin library"):
        child.probe(request)
