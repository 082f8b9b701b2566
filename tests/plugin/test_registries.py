"""Every way in which people load plugin libraries, in TensorRT 10 and 11 and TensorRT-RTX."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ropeexport.ops.forms import PLUGIN_FORMS

SCRIPT = Path(__file__).parent / "registry_steps.py"
OURS = sorted(f"ropeexport::{name} 1" for name in PLUGIN_FORMS)
KINDS = ["lean", "lean10", "rtx"]
# 10's modules have the names of 11's: its folder goes first on the path of a process
LEAN_10 = Path(__file__).parents[2] / "build" / "lean-10.16"
LEAN_10_WHEELS = ["tensorrt-lean-cu13-bindings==10.16.1.11", "tensorrt-lean-cu13-libs==10.16.1.11"]
# what TensorRT says where a creator is there already
_TWICE = "exists already"


@pytest.fixture(scope="session")
def lean_10() -> Path:
    """TensorRT 10.16, installed once into the checkout's build folder."""
    marker = LEAN_10 / "complete.txt"
    wanted = f"{LEAN_10_WHEELS} {sys.implementation.cache_tag}"
    if not marker.is_file() or marker.read_text() != wanted:
        shutil.rmtree(LEAN_10, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", str(LEAN_10), *LEAN_10_WHEELS], check=True)
        marker.write_text(wanted)
    return LEAN_10


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    """A TensorRT."""
    if request.param == "lean10":
        request.getfixturevalue("lean_10")
    return str(request.param)


def python(kind: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python in a process that finds this kind of TensorRT first."""
    environment = dict(os.environ)
    if kind == "lean10":
        paths = [str(LEAN_10), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def registered(kind: str, steps: str, *libraries: Path) -> tuple[list[dict[str, list[str]]], list]:
    """Return what each registry holds after each step, and the errors logged; no crash."""
    done = python(kind, SCRIPT, kind, steps, *libraries)
    result = json.loads(done.stdout.splitlines()[-1])
    expected = {"lean": "11.", "lean10": "10.16.", "rtx": "1.", "none": ""}[kind]
    assert result["version"].startswith(expected)
    return result["after"], result["errors"]


def holds(kind: str, steps: str, *libraries: Path) -> list[list[str]]:
    """Return what the registry that is loaded into holds after each step, if nothing was wrong."""
    after, errors = registered(kind, steps, *libraries)
    assert errors == []
    return [step.get("builder", step["global"]) for step in after]


def test_load_library(library, kind) -> None:
    assert holds(kind, "load,unload,load", library) == [OURS, [], OURS]


def test_plain_dlopen_registers_with_the_global_registry(library, kind) -> None:
    """And it stays: a registry must not be left with a creator whose code is gone."""
    after, errors = registered(kind, "dlopen,dlclose,dlopen", library)
    assert errors == []
    assert [step["global"] for step in after] == [OURS, OURS, OURS]


@pytest.mark.parametrize("steps", ["dlopen,load", "dlopen,load,unload", "dlopen,dlopen,load"])
def test_never_registered_twice(library, kind, steps) -> None:
    """loadLibrary refuses what is registered already: after it, the registration is its own."""
    after, errors = registered(kind, steps, library)
    assert errors == []
    expected = [] if steps.endswith("unload") else OURS
    assert after[-1].get("builder", after[-1]["global"]) == expected


@pytest.mark.parametrize("kind", ["lean", "lean10"], indirect=True)
def test_loading_twice_changes_nothing(library, kind) -> None:
    assert holds(kind, "load,load", library) == [OURS, OURS]


def test_a_refusal(library, kind) -> None:
    """Its reason goes to TensorRT's logger, or where that has none, to standard error."""
    done = python(kind, SCRIPT, kind, "load,refuse", library)
    said = [*json.loads(done.stdout.splitlines()[-1])["errors"], *done.stderr.splitlines()]
    assert "nothing was refused" not in said
    assert sum("plugin: expected field contract" in line for line in said) == 1


def test_a_second_copy_leaves_the_first_alone(library, tmp_path, kind) -> None:
    """As where an engine carries a copy of a library that the process has loaded already."""
    copy = shutil.copy(library, tmp_path / "libcopy.so")
    after, errors = registered(kind, "dlopen,dlopen_second", library, copy)
    assert errors == []
    assert [step["global"] for step in after] == [OURS, OURS]


def test_a_copy_is_loaded_beside_the_first_only_where_it_may_be(library, tmp_path) -> None:
    copy = shutil.copy(library, tmp_path / "libcopy.so")
    after, errors = registered("rtx", "load,load_second", library, copy)
    assert [step["builder"] for step in after] == [OURS, OURS]
    assert any(_TWICE in error for error in errors)  # TensorRT's own answer


def test_without_tensorrt_it_loads_all_the_same(library) -> None:
    after, _ = registered("none", "dlopen,dlclose", library)
    assert after == [{}, {}]


@pytest.mark.parametrize("kind", ["lean", "lean10"], indirect=True)
def test_both_in_one_process(library, kind) -> None:
    code = (
        "import ctypes, sys, tensorrt_rtx, tensorrt_lean_bindings as lean;"
        "ctypes.CDLL(sys.argv[1]);"
        "both = [m.get_plugin_registry().get_creator('ApplyRope', '1', 'ropeexport')"
        " for m in (tensorrt_rtx, lean)];"
        "sys.exit(0 if all(both) else f'{both}')"
    )
    python(kind, "-c", code, library)
