"""Every way in which people load plugin libraries, in TensorRT 11 and in TensorRT-RTX."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ropeexport.onnx_ops.forms import FORMS

SCRIPT = Path(__file__).parent / "registry_steps.py"
OURS = sorted(f"ropeexport::{name} 1" for name in FORMS)
# what TensorRT says where a creator is there already
_TWICE = "exists already"


def registered(kind: str, steps: str, *libraries: Path) -> tuple[list[dict[str, list[str]]], list]:
    """Return what each registry holds after each step, and the errors logged; no crash."""
    command = [sys.executable, str(SCRIPT), kind, steps, *map(str, libraries)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    return result["after"], result["errors"]


def holds(kind: str, steps: str, *libraries: Path) -> list[list[str]]:
    """Return what the registry that is loaded into holds after each step, if nothing was wrong."""
    after, errors = registered(kind, steps, *libraries)
    assert errors == []
    return [step.get("builder", step["global"]) for step in after]


@pytest.mark.parametrize("kind", ["lean", "rtx"])
def test_load_library(library, kind) -> None:
    assert holds(kind, "load,unload,load", library) == [OURS, [], OURS]


@pytest.mark.parametrize("kind", ["lean", "rtx"])
def test_plain_dlopen_registers_with_the_global_registry(library, kind) -> None:
    """And it stays: a registry must not be left with a creator whose code is gone."""
    after, errors = registered(kind, "dlopen,dlclose,dlopen", library)
    assert errors == []
    assert [step["global"] for step in after] == [OURS, OURS, OURS]


@pytest.mark.parametrize("kind", ["lean", "rtx"])
@pytest.mark.parametrize("steps", ["dlopen,load", "dlopen,load,unload", "dlopen,dlopen,load"])
def test_never_registered_twice(library, kind, steps) -> None:
    """loadLibrary refuses what is registered already: after it, the registration is its own."""
    after, errors = registered(kind, steps, library)
    assert errors == []
    expected = [] if steps.endswith("unload") else OURS
    assert after[-1].get("builder", after[-1]["global"]) == expected


def test_loading_twice_changes_nothing(library) -> None:
    assert holds("lean", "load,load", library) == [OURS, OURS]


@pytest.mark.parametrize("kind", ["lean", "rtx"])
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


def test_both_in_one_process(library) -> None:
    code = (
        "import ctypes, sys, tensorrt_rtx, tensorrt_lean_bindings as lean;"
        "ctypes.CDLL(sys.argv[1]);"
        "both = [m.get_plugin_registry().get_creator('ApplyRope', '1', 'ropeexport')"
        " for m in (tensorrt_rtx, lean)];"
        "sys.exit(0 if all(both) else f'{both}')"
    )
    subprocess.run([sys.executable, "-c", code, str(library)], check=True, timeout=120)
