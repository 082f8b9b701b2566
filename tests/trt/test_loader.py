"""The child's environment: the link that TensorRT-RTX's parser needs, in the cache folder."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ropeexport.errors import MissingError
from ropeexport.trt import cache, loader


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A libraries package as the wheel ships it."""
    folder = tmp_path / "tensorrt_rtx_libs"
    folder.mkdir()
    for name in ("libtensorrt_rtx.so.1", "libother.so.2", "libother.so", "__init__.py"):
        (folder / name).write_text(name)
    spec = SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(loader, "find_spec", lambda name: spec if "rtx" in name else None)
    return folder


def test_links_only_what_lacks_its_plain_name(wheel, own_cache) -> None:
    folder = loader.link_folder("tensorrt-rtx", "1.7")
    assert folder == own_cache / "links" / "tensorrt-rtx-1.7"
    assert [p.name for p in folder.iterdir()] == ["libtensorrt_rtx.so"]
    assert (folder / "libtensorrt_rtx.so").read_text() == "libtensorrt_rtx.so.1"


def test_a_link_of_an_environment_that_is_gone_is_renewed(wheel, own_cache) -> None:
    folder = own_cache / "links" / "tensorrt-rtx-1.7"
    folder.mkdir(parents=True)
    (folder / "libtensorrt_rtx.so").symlink_to("/nowhere/libtensorrt_rtx.so.1")
    loader.link_folder("tensorrt-rtx", "1.7")
    loader.link_folder("tensorrt-rtx", "1.7")
    assert [p.name for p in folder.iterdir()] == ["libtensorrt_rtx.so"]
    assert (folder / "libtensorrt_rtx.so").exists()


def test_the_users_library_path_stays(wheel, monkeypatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/users/own")
    paths = loader.child_environment("tensorrt-rtx", "1.7")["LD_LIBRARY_PATH"].split(os.pathsep)
    assert paths[1:] == ["/users/own"]
    assert Path(paths[0]).name == "tensorrt-rtx-1.7"


def test_no_libraries_package_no_links(wheel, monkeypatch) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert loader.link_folder("tensorrt", "10.14") is None
    assert "LD_LIBRARY_PATH" not in loader.child_environment("tensorrt", "10.14")


def test_a_cache_that_cannot_be_written_names_the_variable(wheel, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(MissingError, match=f"{cache.VARIABLE}=DIR"):
        loader.link_folder("tensorrt-rtx", "1.7")


def test_cache_folder_follows_xdg(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "ropeexport"
