"""Modules of other people's packages, as they are, through the command line beside them.

The packages live in an environment of their own: ``make others`` puts it into ``build/others``.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import UNFORESEEN

pytestmark = pytest.mark.tools

FACTORIES = Path(__file__).with_name("others_factories.py")
ENVIRONMENT = "ROPEEXPORT_OTHERS"  # a program of it, as the benchmarks are told of one
LENGTHS = {"length": (1, 16, 48)}
PICTURES = {"height": (1, 4, 6), "width": (1, 5, 7)}  # in patches


@dataclass(frozen=True)
class Expected:
    """Rotary applications, all of them ops; ranges of axes; whether every angle is exact."""

    ropes: int
    ranges: dict[str, tuple[int, int, int]]
    exact: bool = False


MODULES = {
    "x_encoder": Expected(2, LENGTHS, exact=True),
    "x_encoder_partial": Expected(2, LENGTHS, exact=True),
    "x_decoder": Expected(2, LENGTHS, exact=True),
    "rotary": Expected(1, LENGTHS, exact=True),
    "rotary_cached": Expected(1, LENGTHS, exact=True),
    "rotary_interpolated": Expected(1, LENGTHS, exact=True),
    "rotary_length_first": Expected(1, LENGTHS, exact=True),
    "rotary_axial": Expected(1, PICTURES, exact=True),
    "rotary_pixels": Expected(1, {}),
    "timm_eva": Expected(2, {}),
    "timm_any_size": Expected(2, PICTURES, exact=True),
    "timm_perception_encoder": Expected(2, {}),
    "timm_mixed": Expected(2, PICTURES),
    "timm_dinov3": Expected(2, {}),
    "timm_dinov3_any_size": Expected(2, PICTURES),
    "torchtune_attention": Expected(2, LENGTHS),
    "torchtune_llama3": Expected(2, LENGTHS),
    "torchtune_phi3": Expected(2, LENGTHS),
    "torchtune_vision": Expected(2, {}),
    "esm2": Expected(2, LENGTHS, exact=True),
    "esm2_layers": Expected(2, LENGTHS | {"batch": (1, 2, 8)}, exact=True),
}
NOT_YET = {
    "rotary_cached": "RX206: q writes rows of a buffer, k reads the same rows in the same call",
    "rotary_axial": "refused: data of five axes, rows and columns apart, is no layout of an op",
    "rotary_pixels": "refused as rotary_axial, and check fails eager itself: float32 angles",
    "torchtune_vision": "refused: data of five axes, tiles and tokens apart; q and k one by one",
    "esm2": "RX201: 'if not padding_mask.any()' is a branch on data, which torch cannot trace",
}


def ropeexport(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the environment with the packages; whatever it is, it was foreseen."""
    program = Path(os.environ.get(ENVIRONMENT, "build/others/bin/python")).with_name("ropeexport")
    if not program.is_file():
        pytest.skip(f"no others here: run 'make others', or set {ENVIRONMENT}")
    environment = {x: value for x, value in os.environ.items() if x != "PYTHONPATH"}
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        check=False, capture_output=True, text=True, env=environment, timeout=600,
    )  # fmt: skip
    assert UNFORESEEN not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    """Return what exports a factory, once each, and its folder and manifest."""

    @cache
    def export(name: str, ranges: str = "") -> tuple[Path, dict[str, Any]]:
        folder = tmp_path_factory.mktemp(name)
        done = ropeexport(
            "export", f"{FACTORIES}:{name}", "-o", folder, "--force", "--json", *ranges.split()
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return folder, json.loads(done.stdout)

    return export


def options(ranges: dict[str, tuple[int, int, int]]) -> str:
    return " ".join(f"--axis {name}={a}:{b}:{c}" for name, (a, b, c) in ranges.items())


def checked(folder: Path, name: str) -> dict[str, Any]:
    done = ropeexport(
        "check", folder, "--module", f"{FACTORIES}:{name}", "--runtime", "onnxruntime", "--json"
    )
    report: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, report["verdict"]) == (0, "PASS"), report["reason"]
    assert {one["name"]: one["status"] for one in report["runtimes"]} == {
        "eager": "PASS", "onnxruntime": "PASS",
    }  # fmt: skip
    return report


def marked(name: str):
    reason = NOT_YET.get(name)
    marks = (
        []
        if reason is None
        else [pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason)]
    )
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [marked(name) for name in MODULES])
def test_a_module_of_a_package_is_exported_as_it_is(exported, name: str) -> None:
    expected = MODULES[name]
    folder, manifest = exported(name, options(expected.ranges))
    recognition = manifest["model"]["recognition"]
    assert (recognition["found"], recognition["replaced"]) == (expected.ropes, expected.ropes)
    assert recognition["refused"] == recognition["not_judged"] == []
    assert len(manifest["model"]["ropes"]) == expected.ropes
    assert (manifest["model"]["max_position"] is not None) == expected.exact
    assert set(manifest["axes"]) == {"batch", *expected.ranges}

    cases = [one["case"]["sizes"] for one in checked(folder, name)["comparisons"]]
    for axis in manifest["axes"]:
        assert len({sizes[axis] for sizes in cases}) > 1, axis


def test_what_no_op_has_stays_and_is_counted(exported) -> None:
    """The xPos of x-transformers scales by position; both layers' queries and keys."""
    folder, manifest = exported("x_decoder_xpos", options(LENGTHS))
    recognition = manifest["model"]["recognition"]
    assert (recognition["found"], recognition["replaced"]) == (0, 0)
    assert len(recognition["not_judged"]) == 4
    checked(folder, "x_decoder_xpos")


def test_a_length_that_python_counts_stays_dynamic(exported) -> None:
    """Of rotary-embedding-torch's xPos, which takes ``len`` of the positions.

    The export has compared the file with the module at another length; ``check`` cannot copy it.
    """
    _, manifest = exported("rotary_xpos", options(LENGTHS))
    assert set(manifest["axes"]) == {"batch", "length"}
    assert len(manifest["model"]["recognition"]["not_judged"]) == 2
