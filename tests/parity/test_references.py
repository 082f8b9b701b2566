"""No PASS for a module with state or randomness: each is refused, and its cause is named."""

from __future__ import annotations

import json

import pytest
from command_line import ropeexport

from ropeexport.artifact import Artifact
from ropeexport.parity.check import Options, check

MODELS = "tests/changing_models.py"
FEW = Options(count=6)

STATES = {
    "BufferInPlace": "buffer 'offset' changes from call to call: take it as an input of forward",
    "BufferReassigned": "buffer 'offset' changes from call to call",
    "InAChild": "buffer 'offset' of 'child' changes from call to call",
    "Counter": "attribute 'calls' changes from call to call",
    "TensorInAList": "attribute 'past' changes from call to call",
    "TensorsInAnObject": "attribute 'cache' changes from call to call",
    "ParameterThroughData": "parameter 'weight' of 'q' changes from call to call",
    "FilledByTheFirstCall": "attribute 'scale' changes from call to call",
    "KeysOfTheFirstCall": "attribute 'first' changes from call to call",
    "LongestSoFar": "attribute 'longest' changes from call to call",
    "InputInPlace": "eager changes its input 'x' in place: return it as an output",
}
ELSEWHERE = ("GlobalVariable", "Clock")
DRAWS = {
    "Dropout": "aten::",
    "Rand": "aten::rand at ",
    "RandnLike": "aten::randn_like at ",
    "Bernoulli": "aten::bernoulli at ",
    "RandintOffset": "aten::randint at ",
    "Rrelu": "aten::rrelu_with_noise",
    "AlphaDropout": "aten::bernoulli_ at ",
    "AttentionsDropout": "aten::",
    "OwnGenerator": "aten::rand at ",
    "PythonsRandom": "Python's random",
    "NumpysRandom": "NumPy's random",
}
SOUND = (
    "Sound", "ScratchBuffer", "MemoisedTables", "DropoutInEvaluation", "CastsBeforeItChanges",
    "UnusedDraw",
)  # fmt: skip


@pytest.fixture
def reason(exported):
    """Return a function that checks the sound export against another module."""

    def refused(name: str) -> str:
        report = check(
            Artifact.read(exported(f"{MODELS}:make_Sound")), f"{MODELS}:make_{name}", FEW
        )
        assert report.verdict == "FAIL"
        assert "PASS" not in {r.status for r in report.runtimes}
        assert [c.status for c in report.comparisons if c.runtime != "tensorrt"] == ["FAIL"]
        assert "\n" not in report.reason
        return report.reason

    return refused


@pytest.mark.parametrize("name", STATES)
def test_state_is_refused_and_named(reason, name: str) -> None:
    assert STATES[name] in reason(name)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_lies_outside_of_the_module_is_said_to(reason, name: str) -> None:
    assert "a global variable, a closure, a clock" in reason(name)


@pytest.mark.parametrize("name", DRAWS)
def test_random_numbers_are_refused_and_their_line_is_named(reason, name: str) -> None:
    found = reason(name)
    assert "it draws random numbers although it is in evaluation mode" in found
    assert DRAWS[name] in found
    if "aten::" in found:
        assert "changing_models.py:" in found
    assert "scaled_dot_product" not in found, "an attention without dropout draws nothing"


def test_both_at_once_are_both_named(reason) -> None:
    found = reason("StateAndRandomness")
    assert "buffer 'offset' changes" in found
    assert "aten::randn_like" in found


@pytest.mark.parametrize("name", SOUND)
def test_what_is_sound_passes(exported, name: str) -> None:
    report = check(Artifact.read(exported(f"{MODELS}:make_Sound")), f"{MODELS}:make_{name}", FEW)
    assert report.verdict == "PASS", report.reason


@pytest.mark.parametrize("name", ["BufferInPlace", "Dropout"])
def test_the_command_line_refuses_them_too(exported, name: str) -> None:
    folder = exported(f"{MODELS}:make_Sound")
    module = f"{MODELS}:make_{name}"
    done = ropeexport("check", folder, "--module", module, "--cases", "6")
    assert done.returncode == 1
    assert "FAIL: eager is no function of its inputs" in " ".join(done.stdout.split())
    assert json.loads((folder / "parity.json").read_text())["verdict"] == "FAIL"
