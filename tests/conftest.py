"""Folders that many tests share, exported and built, a cache folder of their own, and a limit."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import ropeexport
from ropeexport import manifest
from ropeexport.machine import output_of
from ropeexport.trt import cache, plugin_library

Exported = Callable[..., Path]
ENGINE_TESTS = "needs TensorRT-RTX: pip install 'ropeexport[cpu]'"
STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--minutes",
        type=float,
        help="begin no test after so many; files are in an order of the commit's own then",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let a suite that is cut short be another part of it for each commit."""
    if config.getoption("minutes") is not None:
        commit = output_of("git", "rev-parse", "HEAD")
        items.sort(key=lambda item: hashlib.sha256(f"{commit} {item.path}".encode()).digest())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("minutes")
    if minutes is not None and time.monotonic() > STARTED + minutes * 60:
        pytest.skip(f"NOT RUN: this suite's {minutes:g} minutes are over")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """No test sees the user's cache folder or the plugin library in it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv(cache.VARIABLE, str(folder))
    monkeypatch.delenv(plugin_library.VARIABLE, raising=False)
    return folder


@pytest.fixture(scope="session")
def export_once(tmp_path_factory) -> Exported:
    made: dict[tuple[str, str, int], Path] = {}

    def export(model: str = "flux-attention", dtype: str = "fp16", head_dim: int = 64) -> Path:
        key = (model, dtype, head_dim)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("exported")
            sizes = {"heads": 2, "head_dim": head_dim, "length": 32, "dtype": dtype}
            ropeexport.export(model, out=made[key], **({} if ":" in model else sizes))
        return made[key]

    return export


@pytest.fixture
def exported(export_once, tmp_path) -> Exported:
    """Return a function that gives a fresh copy of an exported folder."""

    def copy(*arguments: object, **options: object) -> Path:
        made = export_once(*arguments, **options)
        # as it was exported, whoever has checked it since
        reports = shutil.ignore_patterns("parity.json", "bench.*")
        return Path(shutil.copytree(made, tmp_path / "out", ignore=reports))

    return copy


@pytest.fixture(scope="session")
def built_once(export_once, tmp_path_factory) -> Path:
    """An output folder with an engine, for tests that only read it."""
    from ropeexport.artifact import Artifact
    from ropeexport.trt.build import BuildOptions, build

    folder = Path(shutil.copytree(export_once(), tmp_path_factory.mktemp("built") / "out"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.VARIABLE, str(tmp_path_factory.mktemp("cache")))
        build(Artifact.read(folder), BuildOptions(impl="decomposed"))
    return folder


@pytest.fixture
def built(built_once, tmp_path, own_cache) -> Path:
    """A fresh copy of an output folder with an engine that this user has built."""
    from ropeexport.artifact import Artifact
    from ropeexport.trust.engines import built_here

    folder = Path(shutil.copytree(built_once, tmp_path / "built"))
    artifact = Artifact.read(folder)
    built_here(artifact, artifact.manifest.engine)
    return folder


@pytest.fixture
def edit_engine() -> Callable[..., None]:
    """Change fields of a folder's engine record."""

    def edit(folder: Path, **fields: object) -> None:
        record = manifest.read(folder)
        assert record.engine is not None
        engine = record.engine.model_copy(update=fields)
        manifest.write(folder, record.model_copy(update={"engine": engine}))

    return edit
