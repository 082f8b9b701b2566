"""The judge on a model of one line: each thing that may be wrong with a result is told apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from ropeexport.errors import MissingError, ParityError, RopeExportError
from ropeexport.manifest import Axis, Manifest, ModelRecord, Source, TensorSpec
from ropeexport.parity import tolerance
from ropeexport.parity.cases import BEYOND, Case
from ropeexport.parity.contenders import Contender
from ropeexport.parity.judge import Judge
from ropeexport.parity.records import Comparison
from ropeexport.parity.references import NotRepeatableError, Truth, truth_of
from ropeexport.parity.survey import CaseSurvey
from ropeexport.parity.tolerance import Size, Yardstick
from ropeexport.runners.runner import Arrays, Facts, Runner

Function = Callable[[np.ndarray], np.ndarray]
LENGTH, WIDTH = 6, 4
CASE = Case("small", "random matrices", {"length": LENGTH}, seed=3)
SPEC = TensorSpec(name="y", dtype="float32", shape=("length", WIDTH))
X = np.random.default_rng(0).standard_normal((LENGTH, WIDTH)).astype(np.float32)


def right(x: np.ndarray) -> np.ndarray:
    return np.tanh(x) * x


def manifest(role: str = "data", dtype: str = "float32") -> Manifest:
    x = TensorSpec(name="x", dtype=dtype, shape=("length", WIDTH))
    y = SPEC.model_copy(update={"role": role, "dtype": dtype})
    model = ModelRecord(
        file="model.onnx", sha256="", opset=23, dtype="fp32", inputs=(x,), outputs=(y,), ropes=(),
        max_position=100,
    )  # fmt: skip
    axes = {"length": Axis(min=1, opt=LENGTH, max=8)}
    return Manifest(ropeexport="0", source=Source(kind="module", name="f"), model=model, axes=axes)


class Exact:
    """The oracle: the function in float64."""

    widest = 2

    def __init__(self, function: Function) -> None:
        self._function = function

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
        return [{"y": self._function(call["x"].astype(np.float64))} for call in calls]

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        return ""

    def truth(self, inputs: Arrays, seed: int) -> Truth:
        return truth_of(lambda given: {"y": self._function(given["x"])}, inputs, seed)


class Eager:
    """The yardstick: the function in the type of its data."""

    name = "eager"
    facts = Facts(implementation=("torch",))

    def __init__(self, function: Function) -> None:
        self._function = function

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
        return [{"y": self._function(call["x"])} for call in calls]

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        return ""


class Runtime(Runner):
    def __init__(self, outputs: Callable[[Arrays], Mapping[str, np.ndarray]], **facts) -> None:
        self.call = outputs
        self.facts = Facts(**facts)

    def call(self, loaded: Arrays) -> Mapping[str, np.ndarray]:
        raise NotImplementedError


def runtime(function: Function = right, keeps_nan: bool = True, **facts) -> Contender:
    made = Runtime(lambda inputs: {"y": function(inputs["x"])}, **facts)
    return Contender("runtime", made, keeps_nan=keeps_nan)


def judge(eager: Function = right, exact: Function = right, **options) -> Judge:
    options = {"manifest": manifest(), "inputs": {"x": X}} | options
    inputs = options.pop("inputs")
    if inputs is not None:
        options |= {"inputs": lambda _: inputs, "probes": [inputs]}
    return Judge(oracle=Exact(exact), eager=Eager(eager), **options)


def heard(contender: Contender, case: Case = CASE, judged: Judge | None = None) -> Comparison:
    first, second = (judged or judge()).judge(case, [contender])
    assert (first.runtime, second.runtime) == ("eager", "runtime")
    return second


def wrong_at(place: tuple[int, int], number: float) -> Function:
    def function(x: np.ndarray) -> np.ndarray:
        y = right(x)
        y[place] = number
        return y

    return function


def test_what_is_right_passes() -> None:
    eager, found = judge().judge(CASE, [runtime()])
    assert [c.status for c in (eager, found)] == ["PASS", "PASS"]
    assert [c.reason for c in (eager, found)] == ["", ""]
    assert (eager.implementation, found.output) == ("torch", "y")
    assert found.case.model_dump() == {
        "name": "small", "kind": "random matrices", "sizes": {"length": LENGTH}, "seed": 3,
    }  # fmt: skip
    assert found.numbers.elements == X.size
    assert found.bound.rule == "rounding"


WRONG = {
    "a sign": (lambda x: -right(x), "root mean square error"),
    "a little everywhere": (lambda x: right(x) * np.float32(1 + 1e-5), "root mean square error"),
    "one element": (wrong_at((2, 1), 3.0), "error"),
    "NaN": (wrong_at((2, 1), np.nan), "1 NaN of 24 elements"),
    "infinity": (wrong_at((2, 1), np.inf), "1 infinite of 24 elements"),
    "a shape": (lambda x: right(x)[:1], "shape: expected (6, 4), got (1, 4)"),
    "a type": (lambda x: right(x).astype(np.float16), "type: expected float32, got float16"),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_way_to_be_wrong_fails(name: str) -> None:
    function, reason = WRONG[name]
    found = heard(runtime(function))
    assert found.status == "FAIL"
    assert reason in found.reason


@pytest.mark.parametrize("name", WRONG)
def test_eager_is_held_to_its_own_bound(name: str) -> None:
    function, _ = WRONG[name]
    eager, _ = judge(eager=function).judge(CASE, [runtime()])
    # eager may have stages of which the oracle's sensitivity knows nothing
    assert eager.status == ("PASS" if name == "a little" else "FAIL")


def test_a_broken_eager_is_no_yardstick() -> None:
    for function in (wrong_at((0, 0), np.nan), lambda x: -right(x)):
        found = heard(runtime(lambda x: -right(x)), judged=judge(eager=function))
        assert found.status == "FAIL"


def test_a_missing_output_fails() -> None:
    found = heard(Contender("runtime", Runtime(lambda _: {})))
    assert (found.status, found.reason) == ("FAIL", "missing output")


@pytest.mark.parametrize(
    ("error", "status"), [(MissingError, "SKIPPED"), (RopeExportError, "FAIL")]
)
def test_a_runtime_that_raises_is_no_pass(error: type[RopeExportError], status: str) -> None:
    def raising(_: Arrays) -> Mapping[str, np.ndarray]:
        raise error("no such thing")

    found = heard(Contender("runtime", Runtime(raising)))
    assert (found.status, found.reason) == (status, "no such thing")
    assert (found.numbers, found.bound) == (None, None)


def test_one_that_was_not_opened_is_not_heard() -> None:
    (eager,) = judge().judge(CASE, [Contender("runtime")])
    assert eager.runtime == "eager"


def test_what_is_right_for_rotations_alone_is_not_held_to_matrices() -> None:
    native = runtime(lambda x: -right(x), implementation=("native",))
    found = heard(native)
    assert found.status == "NOT_SUPPORTED"
    assert "right for rotations only" in found.reason
    assert heard(native, replace(CASE, kind="random rotations")).status == "FAIL"


def test_a_stand_in_proves_nothing_of_a_runtime() -> None:
    assert heard(runtime(emulated=True)).status == "EMULATED"
    assert heard(runtime(lambda x: -right(x), emulated=True)).status == "FAIL"


NOWHERE = replace(CASE, kind=BEYOND)


def test_nan_is_documented_beyond_the_tables_alone() -> None:
    nan = runtime(wrong_at((2, 1), np.nan))
    found = heard(nan, NOWHERE)
    assert found.status == "PASS"
    assert found.reason == "NaN in 1 of 24 elements, as documented for positions beyond 100"
    assert heard(nan).status == "FAIL"
    (eager, _) = judge(eager=wrong_at((2, 1), np.nan)).judge(NOWHERE, [runtime()])
    assert eager.status == "FAIL"


def test_numbers_in_the_place_of_nan_fail_but_for_a_runtime_that_drops_it() -> None:
    wrong = heard(runtime(lambda x: -right(x)), NOWHERE)
    assert wrong.status == "FAIL"
    spared = heard(runtime(lambda x: -right(x), keeps_nan=False), NOWHERE)
    assert (spared.status, spared.numbers, spared.bound) == ("NOT_SUPPORTED", None, None)
    assert "gives wrong numbers where the file says NaN" in spared.reason
    assert "positions beyond 100 must be kept from it (root mean square error" in spared.reason
    assert heard(runtime(keeps_nan=False), NOWHERE).status == "PASS"
    assert heard(runtime(lambda x: -right(x), keeps_nan=False)).status == "FAIL"
    missing = Contender("runtime", Runtime(lambda _: {}), keeps_nan=False)
    assert heard(missing, NOWHERE).status == "FAIL"


def cancelled(x: np.ndarray) -> np.ndarray:
    """What is left of a difference of large numbers is all rounding."""
    large = x * x.dtype.type(1e8)
    return (large + x) - large


def test_a_bound_beyond_the_output_is_a_failure_where_it_must_prove_something() -> None:
    found = heard(runtime(cancelled), judged=judge(cancelled, lambda x: cancelled(x * 1e9)))
    assert found.status == "FAIL"
    noise = judge(lambda x: x * 0, lambda x: 1e-9 * np.sin(1e9 * x))
    zeros = runtime(lambda x: x * 0)
    held = heard(zeros, judged=noise)
    assert held.status == "FAIL"
    assert "nothing would be proven" in held.reason
    assert heard(zeros, judged=replace(noise, must_prove=False)).status == "PASS"


def test_a_users_own_bound_holds_in_the_place_of_ours() -> None:
    off = runtime(lambda x: right(x) + np.float32(0.01))
    wide, narrow = tolerance.override(0.02, 0.0), tolerance.override(0.005, 0.0)
    assert heard(off).status == "FAIL"
    found = heard(off, judged=judge(override=wide))
    assert (found.status, found.bound.rule) == ("PASS", "override")
    assert heard(off, judged=judge(override=narrow)).status == "FAIL"


def test_an_ops_own_result_is_held_to_its_rule() -> None:
    half = {"x": X.astype(np.float16)}
    rotated = judge(manifest=manifest("rotated", "float16"), inputs=half)
    other = judge(manifest=manifest("data", "float16"), inputs=half)
    twice = runtime(lambda x: (right(x) * np.float16(1.001)).astype(np.float16))
    for judged, rule, status in ((rotated, "rotation", "FAIL"), (other, "rounding", "PASS")):
        found = heard(twice, judged=judged)
        assert (found.bound.rule, found.status) == (rule, status)
    plain = replace(rotated, reference_roles={"y": "data"})
    eager, found = plain.judge(CASE, [twice])
    assert (eager.bound.rule, found.bound.rule) == ("rounding", "rotation")
    eager, _ = replace(rotated, reference_roles={}).judge(CASE, [twice])
    assert eager.bound.rule == "rounding"
    eager, _ = rotated.judge(CASE, [twice])
    assert eager.bound.rule == "rotation"


def test_the_yardstick_is_made_of_the_case() -> None:
    """The longest of all axes is that of the weights, or of an input."""
    widths = []
    for widest in (2, 100):
        judged = judge()
        judged.oracle.widest = widest
        widths.append(heard(runtime(), judged=judged).bound.rms)
    truth = truth_of(lambda given: {"y": right(given["x"])}, {"x": X}, CASE.seed)
    yardstick = Yardstick(
        "float32", 2.0**-24, LENGTH, truth.sizes["y"], truth.sensitivity["y"], truth.data_rms
    )
    error = right(X) - right(X.astype("f8"))
    size = Size(float(np.sqrt(np.mean(error**2))), float(np.abs(error).max()))
    assert widths[0] == pytest.approx(tolerance.bound(yardstick.with_eager(size)).rms)
    longer = replace(yardstick, terms=100).with_eager(size)
    assert widths[1] == pytest.approx(tolerance.bound(longer).rms)


def test_whole_numbers_are_judged_too() -> None:
    def doubled(x: np.ndarray) -> np.ndarray:
        return 2 * x

    whole = {"x": np.arange(24).reshape(X.shape)}
    judged = judge(doubled, doubled, manifest=manifest(dtype="int64"), inputs=whole)
    assert heard(runtime(doubled), judged=judged).status == "PASS"
    assert heard(runtime(lambda x: doubled(x) + 1), judged=judged).status == "FAIL"


def test_a_reference_that_fails_is_named() -> None:
    def broken(_: np.ndarray) -> np.ndarray:
        raise ValueError("too long")

    with pytest.raises(
        ParityError, match=r"case 'small': eager itself failed: too long; --lengths"
    ):
        list(judge(eager=broken).judge(CASE, []))


class Counting:
    """Another result at every call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.calls += 1
        return right(x) + self.calls


@pytest.mark.parametrize("who", ["eager", "exact"])
@pytest.mark.parametrize("inputs", [None, {"x": X}])
def test_references_are_functions_of_their_inputs(who: str, inputs: Arrays | None) -> None:
    judge(inputs=inputs).check_references()
    with pytest.raises(NotRepeatableError, match="eager" if who == "eager" else "float64 oracle"):
        judge(inputs=inputs, **{who: Counting()}).check_references()


def test_references_that_only_large_cases_could_tell_are_not_asked() -> None:
    record = manifest()
    size = 1 << 26
    axes = {"length": Axis(min=size, opt=size, max=size)}
    large = judge(Counting(), manifest=record.model_copy(update={"axes": axes}), inputs=None)
    large.check_references()


def test_a_reference_that_changed_has_a_record() -> None:
    judged = judge()
    found = judged.failed("", "it changed")
    assert (found.runtime, found.output, found.status, found.reason) == (
        "eager", "y", "FAIL", "it changed",
    )  # fmt: skip
    assert judged.failed("z", "it changed").output == "z"
    assert found.case is None


def test_a_survey_hears_where_errors_lie() -> None:
    surveys: list[tuple[Comparison, CaseSurvey]] = []
    judged = judge(surveyed=lambda *told: surveys.append(told))
    heard(runtime(wrong_at((2, 1), 3.0)), judged=judged)
    assert [comparison.runtime for comparison, _ in surveys] == ["eager", "runtime"]
    assert surveys[1][0].status == "FAIL"
    assert surveys[1][1].worst > 1.0
    surveys.clear()
    heard(Contender("runtime", Runtime(lambda _: {})), judged=judged)
    assert len(surveys) == 1
    surveys.clear()
    heard(runtime(), NOWHERE, judged)
    assert surveys == []


def test_an_output_without_positions_has_no_survey() -> None:
    surveys: list[object] = []
    record = manifest()
    flat = SPEC.model_copy(update={"shape": (WIDTH,)})
    record = record.model_copy(
        update={"model": record.model.model_copy(update={"outputs": (flat,)})}
    )

    def summed(x: np.ndarray) -> np.ndarray:
        return right(x).sum(axis=0)

    judged = judge(summed, summed, manifest=record, surveyed=lambda *told: surveys.append(told))
    assert heard(runtime(summed), judged=judged).status == "PASS"
    assert surveys == []
