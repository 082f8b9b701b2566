"""TensorRT's child process: what a user reads of its failures, and the libraries that it finds."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_workers import state, write_worker

from ropeexport.errors import BuildError, MissingError, PluginError
from ropeexport.manifest import Profile
from ropeexport.trt import cache, child
from ropeexport.trt.child import BuildRequest, Creator, Probed, ProbeRequest

PROBE = ProbeRequest(flavour="tensorrt-rtx", plugin=Path("lib.so"))
BUILD = BuildRequest(
    flavour="tensorrt-rtx",
    model=Path("model.onnx"),
    engine=Path("model.engine"),
    implementation="decomposed",
    profiles=(Profile(min={}, opt={}, max={}),),
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
    fields = (
        "inputs={'q': 'HALF'}, outputs={}, ropes={}, attention='none', compute_capabilities=(), "
        "refits=(), fixed={}"
    )
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


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A libraries package as the wheel ships it."""
    folder = tmp_path / "tensorrt_rtx_libs"
    folder.mkdir()
    for name in ("libtensorrt_rtx.so.1", "libother.so.2", "libother.so", "__init__.py"):
        (folder / name).write_text(name)
    spec = SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(child, "find_spec", lambda name: spec if "rtx" in name else None)
    return folder


def test_links_only_what_lacks_its_plain_name(wheel, own_cache) -> None:
    folder = child.link_folder("tensorrt-rtx", "1.7")
    assert folder == own_cache / "links" / "tensorrt-rtx-1.7"
    assert [p.name for p in folder.iterdir()] == ["libtensorrt_rtx.so"]
    assert (folder / "libtensorrt_rtx.so").read_text() == "libtensorrt_rtx.so.1"


def test_a_link_of_an_environment_that_is_gone_is_renewed(wheel, own_cache) -> None:
    folder = own_cache / "links" / "tensorrt-rtx-1.7"
    folder.mkdir(parents=True)
    (folder / "libtensorrt_rtx.so").symlink_to("/nowhere/libtensorrt_rtx.so.1")
    child.link_folder("tensorrt-rtx", "1.7")
    child.link_folder("tensorrt-rtx", "1.7")
    assert [p.name for p in folder.iterdir()] == ["libtensorrt_rtx.so"]
    assert (folder / "libtensorrt_rtx.so").exists()


def test_the_users_library_path_stays(wheel, monkeypatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/users/own")
    paths = child.child_environment("tensorrt-rtx", "1.7")["LD_LIBRARY_PATH"].split(os.pathsep)
    assert paths[1:] == ["/users/own"]
    assert Path(paths[0]).name == "tensorrt-rtx-1.7"


def test_no_libraries_package_no_links(wheel, monkeypatch) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert child.link_folder("tensorrt", "10.14") is None
    assert "LD_LIBRARY_PATH" not in child.child_environment("tensorrt", "10.14")


def test_a_cache_that_cannot_be_written_names_the_variable(wheel, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(MissingError, match=f"{cache.VARIABLE}=DIR"):
        child.link_folder("tensorrt-rtx", "1.7")


def test_cache_folder_follows_xdg(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "ropeexport"
