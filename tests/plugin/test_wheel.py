"""The wheel of the plugin: a fresh environment builds with it, without nvcc and headers."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import ropeexport
from ropeexport.trt import plugin_library
from ropeexport.trt.plugin_library import FILE_NAME

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.trt


def run(*command: object, **environment: str) -> str:
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=ROOT,
        env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(plugin_folder: Path, headers: Path) -> Path:
    """The wheel, of the kernels that were compiled for the other tests."""
    objects = sorted(map(str, plugin_folder.rglob("launch_*.cu.o")))
    assert len(objects) == len(list((ROOT / "plugins/src").glob("launch_*.cu")))
    run(
        "make",
        "plugin-wheel",
        f"PLUGIN_OBJECTS={';'.join(objects)}",
        TENSORRT_INCLUDE_DIR=str(headers),
    )
    [made] = (ROOT / "build/wheels").glob(f"ropeexport_plugin-{ropeexport.__version__}-*.whl")
    return made


def test_it_holds_the_library_for_any_python(wheel: Path) -> None:
    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if ".dist-info" not in name]
    assert sorted(files) == [f"ropeexport_plugin/{name}" for name in ("__init__.py", FILE_NAME)]


def test_a_build_takes_it_by_default(wheel: Path, exported, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    venv.create(fresh, with_pip=True)
    python = fresh / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    # the other packages are those of the environment that runs this test
    here = sysconfig.get_paths()["purelib"]
    [site] = fresh.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(f"{here}\n{ROOT}\n")
    folder = exported()
    assert not plugin_library.cached_library().exists()
    run(python, "-m", "ropeexport", "build", folder, PATH=f"{fresh / 'bin'}:/usr/bin:/bin")
    engine = json.loads((folder / "manifest.json").read_text())["engine"]
    assert engine["plugin"]["embedded"]
    assert set(engine["ropes"].values()) == {"plugin"}
