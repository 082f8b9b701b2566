"""An engine against its manifest, before a byte of it is loaded."""

from __future__ import annotations

import pytest

from ropeexport import atomic, manifest
from ropeexport.errors import EngineError, MissingError, PluginError
from ropeexport.machine import Gpu
from ropeexport.manifest import PluginRecord
from ropeexport.trt import plugin_library, preflight

A_GPU = Gpu("a GPU", "8.9", "13.0")


def plugin(sha256: str, embedded: bool = False) -> PluginRecord:
    return PluginRecord(
        name="ApplyRope",
        version="1",
        namespace="ropeexport",
        file="libropeexport_plugin.so",
        sha256=sha256,
        embedded=embedded,
    )


def engine_of(folder):
    return preflight.engine_record(folder, manifest.read(folder))


def test_the_built_engine_is_verified(built) -> None:
    record = engine_of(built)
    preflight.check_flavour(record)
    preflight.check_gpu(record, A_GPU)  # RTX finishes it at load: any GPU
    assert preflight.read_verified(built, record) == (built / "model.engine").read_bytes()


def test_one_changed_byte_is_found(built) -> None:
    path = built / "model.engine"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineError, match=r"expected sha256 .+, got .+ --force"):
        preflight.read_verified(built, engine_of(built))


def test_a_lost_engine_says_how_to_build_it(built) -> None:
    (built / "model.engine").unlink()
    with pytest.raises(EngineError, match="ropeexport build"):
        preflight.read_verified(built, engine_of(built))


def test_no_engine_is_missing(exported) -> None:
    with pytest.raises(MissingError, match="run: ropeexport build"):
        engine_of(exported())


def test_another_gpu_is_named(built, edit_engine) -> None:
    edit_engine(built, compute_capabilities=("12.0",))
    with pytest.raises(EngineError, match=r"expected .* 12\.0, got 8\.9 \(a GPU\)"):
        preflight.check_gpu(engine_of(built), A_GPU)


def test_an_embedded_plugin_needs_no_file(tmp_path) -> None:
    assert preflight.plugin_path(tmp_path, plugin("0" * 64, embedded=True)) is None


def test_a_missing_plugin_is_named_with_version_namespace_and_file(tmp_path) -> None:
    with pytest.raises(PluginError, match=r"ropeexport::ApplyRope version 1 \(libropeexport"):
        preflight.plugin_path(tmp_path, plugin("0" * 64))


def test_a_plugin_beside_the_engine_goes_first(tmp_path) -> None:
    beside = tmp_path / "libropeexport_plugin.so"
    beside.write_bytes(b"library")
    plugin_library.cached_library().parent.mkdir(parents=True, exist_ok=True)
    plugin_library.cached_library().write_bytes(b"another")
    record = plugin(atomic.sha256_of(beside))
    assert preflight.plugin_path(tmp_path, record) == beside
    beside.unlink()
    with pytest.raises(PluginError, match="built with another plugin"):
        preflight.plugin_path(tmp_path, record)
