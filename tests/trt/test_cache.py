"""What was compiled for a GPU: given back only where it is provably what was written."""

from __future__ import annotations

import os
import stat
from dataclasses import replace

import pytest
from made_tensorrt import A_GPU, engine_record

from ropeexport import atomic
from ropeexport.trt import cache as caches
from ropeexport.trt.cache import RuntimeCache, has_any, runtime_cache_folder

CONTENT = b"first line\n\n" + bytes(range(256)) + b"\n"


@pytest.fixture
def cache(own_cache) -> RuntimeCache:
    return RuntimeCache(runtime_cache_folder(), engine_record(), A_GPU)


def one_warning(caplog) -> str:
    (record,) = caplog.records
    said = record.getMessage()
    assert "\n" not in said
    caplog.clear()
    return said


@pytest.mark.parametrize("content", [CONTENT, memoryview(CONTENT), b""])
def test_what_was_written_is_read(cache, content, caplog) -> None:
    assert not has_any(cache.folder)
    assert cache.read() is None
    cache.write(content)
    assert cache.read() == bytes(content)
    assert has_any(cache.folder)
    assert not caplog.records


def test_it_is_the_users_alone(cache, own_cache) -> None:
    former = os.umask(0)
    try:
        cache.write(CONTENT)
    finally:
        os.umask(former)
    assert cache.path.parent.parent == own_cache
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


OTHERS = {
    "engine": {"engine": engine_record(sha256="f" * 64)},
    "version": {"engine": engine_record(version="1.7.2")},
    "flavour": {"engine": engine_record(flavour="tensorrt")},
    "gpu": {"gpu": replace(A_GPU, name="NVIDIA GeForce RTX 5090")},
    "capability": {"gpu": replace(A_GPU, compute_capability="12.0")},
    "driver": {"gpu": replace(A_GPU, driver_cuda="13.1")},
}


@pytest.mark.parametrize("fields", OTHERS.values(), ids=OTHERS)
def test_another_has_a_file_of_its_own_and_takes_no_other(cache, caplog, fields) -> None:
    other = replace(cache, **fields)
    cache.write(CONTENT)
    assert other.read() is None
    assert not caplog.records  # that is no fault
    cache.path.rename(other.path)
    assert other.read() is None
    assert "left out, and compiled again: damaged, or of another engine" in one_warning(caplog)


def changed_byte(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[: data.index(b"\n")],
        lambda data: data[data.index(b"\n") + 1 :],
        lambda data: changed_byte(data, 20),
        lambda data: changed_byte(data, len(data) - 1),
        lambda data: data.replace(b"cache 1", b"cache 0", 1),
        lambda data: CONTENT,
        lambda data: b"",
    ],
)
def test_what_was_damaged_is_left_out_and_replaced(cache, caplog, damage) -> None:
    cache.write(CONTENT)
    cache.path.write_bytes(damage(cache.path.read_bytes()))
    assert cache.read() is None
    assert "left out, and compiled again" in one_warning(caplog)
    cache.write(CONTENT)
    assert cache.read() == CONTENT
    assert not caplog.records


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o702])
def test_a_folder_that_others_can_open_is_not_trusted(cache, caplog, mode) -> None:
    cache.write(CONTENT)
    cache.folder.chmod(mode)
    assert cache.read() is None
    assert "expected a folder of this user's alone (mode 700)" in one_warning(caplog)
    cache.write(b"new")
    assert f"is not kept: {cache.folder}: expected" in one_warning(caplog)


def test_a_folder_of_another_user_is_not_trusted(cache, caplog, monkeypatch) -> None:
    cache.write(CONTENT)
    monkeypatch.setattr(os, "geteuid", lambda: cache.folder.stat().st_uid + 1)
    assert cache.read() is None
    assert "of this user's alone" in one_warning(caplog)


def test_a_full_disk_is_a_warning_and_leaves_what_was(cache, caplog, monkeypatch) -> None:
    def full(path, beside=None):
        raise OSError(28, "No space left on device")

    cache.write(CONTENT)
    monkeypatch.setattr(atomic, "replacing", full)
    cache.write(b"new")
    assert one_warning(caplog).endswith("is not kept: No space left on device")
    assert cache.read() == CONTENT


def test_no_folder_to_write_is_a_warning(cache, caplog, own_cache) -> None:
    (own_cache / "runtime").write_bytes(b"a file in its place")
    cache.write(CONTENT)
    assert "is not kept: File exists" in one_warning(caplog)
    assert cache.read() is None


def test_the_oldest_files_go(cache, monkeypatch) -> None:
    monkeypatch.setattr(caches, "_MOST_KEPT", 3)
    made = [replace(cache, engine=engine_record(sha256=f"{n}" * 64)) for n in range(5)]
    for time, each in enumerate(made):
        each.write(CONTENT)
        os.utime(each.path, (time, time))
    made[2].write(CONTENT)  # used again
    cache.write(CONTENT)
    left = {path.name for path in cache.folder.iterdir()}
    assert left == {each.path.name for each in (made[4], made[2], cache)}
