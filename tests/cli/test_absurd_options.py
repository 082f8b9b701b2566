"""Options that nobody can mean, of every verb: usage errors, one line, before anything runs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import ropeexport
from ropeexport import given
from ropeexport.cli.main import cli
from ropeexport.errors import UsageError

HUGE = str(10**30)
DIGITS = "9" * 5000  # more than Python reads as a number
EXPORT = {
    "--batch": ("0", "-1", HUGE, DIGITS, "1.5", "x", ""),
    "--heads": ("0", "-1", HUGE, "1000000", ""),
    "--head-dim": ("0", "-2", "3", HUGE, "2147483646", ""),
    "--length": ("0", "-1", HUGE, ""),
    "--capacity": ("0", "-1", "8", HUGE, ""),
    "--opset": ("22", "0", "-1", "1000000000", HUGE, ""),
    "--max-position": ("0", "-1", str(2**24), str(2**63), HUGE, ""),
    "--require-rope": ("-1", HUGE, ""),
    "--axis": ("length=5:1:2", "length=0", "length=0:0:0", f"length=1:1:{HUGE}", "length", "=1",
               f"length={DIGITS}", "length=", "length=1:2", "length=-1:2:3", "none=1:2:3", ""),
    "--dtype": ("", "fp8"),
    "--config": ("",),
    "--output": ("",),
    "--cache": ("", "endless"),
}  # fmt: skip
FUSE = {
    "--axis": ("length=5:1:2", f"length={HUGE}", "none=1"),
    "--max-position": ("-1", HUGE),
    "--require-rope": ("-1",),
    "--output": ("",),
}
SHAPES = ("", "q", "q:", "q:x", "q:1x-1", "q:1x2x3x4,q:1x2x3x4", f"q:{HUGE}", f"q:{DIGITS}x2x3x16",
          "q:1x2", "other:1", "q:1x3x8x16", ":1", "q:1x2x8x16,")  # fmt: skip
BUILD = {
    "--min-shapes": SHAPES,
    "--opt-shapes": SHAPES,
    "--max-shapes": (*SHAPES, "q:1x2x1x16"),
    "--plugins": ("",),
    "--flavour": ("",),
}
CHECK = {
    "--cases": ("0", "-1", "1000001", str(10**12), HUGE, ""),
    "--seed": ("-1", str(2**70), ""),
    "--lengths": ("0", "-1", str(10**12), HUGE, DIGITS, "1,,2", "", "x", "1.5",
                  ",".join(["8"] * 10**5)),
    "--atol": ("-1", "nan", "inf", "1e999", ""),
    "--rtol": ("-1", "nan", "inf", ""),
    "--tokens": ("0", "-1", str(10**12), ""),
    "--module": ("", " "),
    "--pipeline": ("",),
    "--html": ("",),
    "--markdown": ("",),
    "--junit": ("",),
    "--runtime": ("",),
    "--require": ("",),
}  # fmt: skip
BENCH = {
    "--rounds": ("0", "-1", str(10**9), ""),
    "--repeats": ("0", str(10**9)),
    "--threads": ("0", "-1", str(10**9)),
    "--lengths": ("0", str(10**12), ""),
    "--seed": ("-1", str(2**70)),
    "--against": ("", "nobody", ","),
    "--module": ("",),
    "--device": ("",),
}
RUN = {
    "--shapes": (*SHAPES, "length=0", "length=-1", f"length={HUGE}", "length=1,length=2", "none=1",
                 "length=", "length=1=2"),
    "--seed": ("-1", str(2**70), ""),
    "--threads": ("-1", str(10**9)),
    "--input": ("", "x=", "=", "x", "q=nowhere.npy"),
    "--runtime": ("",),
    "--output": ("", "out.txt"),
}  # fmt: skip
VERBS = {
    ("export", "flux-attention", "-o", "new"): EXPORT,
    ("fuse", "out/model.onnx", "-o", "new"): FUSE,
    ("build", "out"): BUILD,
    ("check", "out"): CHECK,
    ("bench", "out"): BENCH,
    ("run", "out", "--random"): RUN,
    ("report", "out"): dict.fromkeys(("--html", "--markdown", "--junit"), ("",)),
    ("plugin", "build"): {"--arch": ("",), "--tensorrt-include": ("",)},
}
CASES = [
    pytest.param((*verb, name, value), id=f"{verb[0]} {name}={value[:24]}")
    for verb, options in VERBS.items()
    for name, values in options.items()
    for value in values
]
EMPTY = [
    ("export", "", "-o", "new"),
    ("fuse", "", "-o", "new"),
    ("check", "out", ""),
    *((verb, "") for verb in ("build", "check", "run", "bench", "report", "inspect")),
]


@pytest.fixture
def place(exported, monkeypatch) -> Path:
    folder = exported(dtype="fp32", head_dim=16)
    monkeypatch.chdir(folder.parent)
    return folder.parent


@pytest.mark.parametrize("arguments", [*CASES, *(pytest.param(x, id=" ".join(x)) for x in EMPTY)])
def test_an_absurd_option_is_a_usage_error(place, arguments) -> None:
    before = sorted(place.rglob("*"))
    started = time.monotonic()
    done = CliRunner().invoke(cli, arguments, prog_name="ropeexport")
    if isinstance(done.exception, UsageError):
        text = str(done.exception)
    else:
        assert isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == 2
        text = done.stderr.splitlines()[-1].removeprefix("Error: ")
    assert text
    assert "\n" not in text
    assert len(text) < 10_000
    assert sorted(place.rglob("*")) == before
    assert time.monotonic() - started < 60  # before the work, not after it


@pytest.mark.parametrize("value", [True, 1.0, "1", None, -1, 2**31, np.float64(1), np.int64(2**40)])
def test_a_whole_number_is_one(value) -> None:
    with pytest.raises(
        UsageError, match=r"^it: expected a whole number of 1 to 2,147,483,647, got"
    ):
        given.whole("it", value, 1)


@pytest.mark.parametrize("value", [1, 2**31 - 1, np.int8(5), np.uint64(7), np.array(3)])
def test_numbers_of_numpy_are_numbers(value) -> None:
    assert given.whole("it", value, 1) == int(value)
    assert type(given.whole("it", value, 1)) is int


@pytest.mark.parametrize("value", [True, "1", float("nan"), float("inf"), -1e-9, 10**400, [1]])
def test_a_bound_is_finite(value) -> None:
    with pytest.raises(UsageError, match=r"^it: expected a finite number, 0 or more, got"):
        given.bound_if("it", value)
    assert given.bound_if("it", np.float32(0.5)) == 0.5
    assert given.bound_if("it", 0) == 0.0


@pytest.mark.parametrize("value", ["", "a\0b", b"a", 3, None, "caf\udce9"])
def test_a_path_is_one(value) -> None:
    with pytest.raises(UsageError, match=r"^it: expected a path"):
        given.path_of("it", value)


def test_sizes_that_no_memory_holds_are_refused_with_what_they_need() -> None:
    elements = 10**15
    with pytest.raises(
        UsageError, match=r"^it: needs about 32,000,000 GB of memory, .* machine has"
    ):
        given.check_memory("it", elements)
    given.check_memory("it", 1000)


def test_lengths_are_held_to_the_memory(place) -> None:
    made = ropeexport.export(
        "flux-attention", out="wide", heads=2, head_dim=16, axes={"length": (1, 8, 2**31 - 1)}
    )
    for run in (made.check, lambda **more: ropeexport.bench("wide", **more)):
        with pytest.raises(UsageError, match=r"^--lengths: needs about"):
            run(lengths=[2**31 - 1])
    with (
        ropeexport.load("wide", runtime="onnxruntime", device="cpu") as model,
        pytest.raises(UsageError, match=r"^shapes: needs about"),
    ):
        model.random_inputs({"length": 2**31 - 1})


@pytest.mark.parametrize(
    "options",
    [
        {"cases": True}, {"cases": 2.0}, {"seed": 1.5}, {"seed": None}, {"lengths": [True]},
        {"lengths": [8.0]}, {"lengths": "8"}, {"atol": "1"}, {"rtol": float("nan")},
        {"tokens": 2.5}, {"module": ""}, {"html": ""}, {"html": b"a"}, {"runtimes": [1]},
    ],
)  # fmt: skip
def test_the_function_refuses_what_the_command_does(place, options) -> None:
    with pytest.raises(UsageError) as error:
        ropeexport.check("out", **options)
    assert "\n" not in str(error.value)


def test_the_function_takes_numbers_of_numpy(place) -> None:
    report = ropeexport.check("out", cases=np.int64(2), seed=np.uint8(3), runtimes="onnxruntime")
    assert (report.verdict, report.seed) == ("PASS", 3)


@pytest.mark.parametrize(
    "options",
    [{"threads": True}, {"threads": 10**9}, {"threads": 1.0}, {"memory_budget": -1},
     {"memory_budget": 2**64}, {"memory_budget": False}, {"plugin": ""}],
)  # fmt: skip
def test_load_refuses_absurd_numbers(place, options) -> None:
    with pytest.raises(UsageError):
        ropeexport.load("out", **options)
