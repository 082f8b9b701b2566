"""What stays unimported: the package and its help load no torch and no runtime."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "pydantic", "rich", "numpy",
         "jinja2", "matplotlib")  # fmt: skip
VERBS = (
    "export",
    "fuse",
    "build",
    "check",
    "run",
    "bench",
    "report",
    "inspect",
    "sign",
    "verify",
    "plugin",
    "doctor",
)

PROBE = """
import sys
from click.testing import CliRunner
{action}
loaded = [name for name in {heavy} if name in sys.modules]
assert not loaded, loaded
"""


def run(action: str) -> None:
    code = PROBE.format(action=action, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_import_is_light() -> None:
    run("import ropeexport; ropeexport.__version__")


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS)])
def test_help_is_light(arguments: list[str]) -> None:
    run(
        "from ropeexport.cli.main import cli\n"
        f"result = CliRunner().invoke(cli, {arguments})\n"
        "assert result.exit_code == 0, result.output"
    )


def test_public_names() -> None:
    import ropeexport

    assert all(getattr(ropeexport, name) for name in ropeexport.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ropeexport.nothing  # noqa: B018
