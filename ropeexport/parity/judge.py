"""One case: the truth, eager, the yardsticks of each output, and every contender held to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ropeexport.errors import MissingError, ParityError, RopeExportError
from ropeexport.manifest import Manifest, TensorSpec
from ropeexport.parity import tolerance
from ropeexport.parity.cases import Case
from ropeexport.parity.compare import Difference, compare
from ropeexport.parity.contenders import Contender
from ropeexport.parity.floats import float_type, is_float
from ropeexport.parity.inputs import make_inputs
from ropeexport.parity.records import (
    CaseRecord,
    Comparison,
    Status,
    bound_of,
    numbers_of,
)
from ropeexport.parity.space import space_of
from ropeexport.parity.survey import CaseSurvey, layout_of, token_positions
from ropeexport.parity.tolerance import Bound, Size, Yardstick
from ropeexport.parity.truth import Truth, TruthTeller
from ropeexport.runners import Arrays, Runner

# Hears each comparison together with the survey of its errors
SurveyListener = Callable[[Comparison, CaseSurvey], None]

_NOT_SUPPORTED = "right for rotations only; the matrices of this case are none"


@dataclass(frozen=True)
class Judge:
    """What every case of a run is judged with.

    Parameters
    ----------
    manifest : Manifest
        Inputs and outputs.
    oracle : TruthTeller
        The exact outputs.
    eager : Runner
        The yardstick, entered.
    override : Bound or None
        The user's own bound in place of the derived ones.
    inputs : mapping, optional
        Arrays in place of those that a case's seed makes.
    surveyed : callable, optional
        Hears where the errors of each comparison lie.
    """

    manifest: Manifest
    oracle: TruthTeller
    eager: Runner
    override: Bound | None = None
    surveyed: SurveyListener | None = None
    inputs: Arrays | None = None

    def judge(self, case: Case, contenders: list[Contender]) -> Iterator[Comparison]:
        """Yield the comparisons of eager and of each contender that runs, output by output."""
        given = self.inputs
        inputs = make_inputs(case, self.manifest.model.inputs) if given is None else given
        truth, eager = self._references(case, inputs)
        yardsticks = {
            spec.name: self._yardstick(spec, inputs, truth) for spec in self.manifest.model.outputs
        }
        record = CaseRecord(name=case.name, kind=case.kind, sizes=dict(case.sizes), seed=case.seed)
        hearing = _Hearing(case, record, truth, self.manifest, inputs, self.override, self.surveyed)
        errors = {}
        for spec in hearing.outputs:
            bound = tolerance.eager_bound(yardsticks[spec.name])
            difference, comparison = hearing.hold(self.eager, spec, eager.get(spec.name), bound)
            errors[spec.name] = _size(difference)
            yield comparison
        del eager
        bounds = {
            name: tolerance.bound(yardstick.with_eager(errors[name]))
            for name, yardstick in yardsticks.items()
        }
        for contender in contenders:
            if contender.runner is not None:
                yield from hearing.hear(contender, contender.runner, bounds)

    def _references(
        self, case: Case, inputs: Arrays
    ) -> tuple[Truth, dict[str, NDArray[np.generic]]]:
        try:
            return self.oracle.truth(inputs, case.seed), self.eager.run(inputs)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ParityError(
                f"case {case.name!r}: {self.eager.name} itself failed: {error}; "
                "--lengths chooses other lengths"
            ) from error

    def _yardstick(self, spec: TensorSpec, inputs: Arrays, truth: Truth) -> Yardstick:
        data = [s.dtype for s in self.manifest.model.inputs if s.role == "data"]
        # whole numbers of a model that takes no others: as exact as the coefficients' float32
        types = [dtype for dtype in (spec.dtype, *data) if is_float(dtype)] or ["float32"]
        rotated = spec.role == "rotated"
        sizes = (size for x in inputs.values() for size in x.shape)
        return Yardstick(
            dtype=spec.dtype,
            working_roundoff=max(float_type(dtype).unit_roundoff for dtype in types),
            terms=1 if rotated else max([self.oracle.widest, *sizes]),
            output=truth.sizes[spec.name],
            sensitivity=truth.sensitivity[spec.name],
            data_rms=truth.data_rms,
            conversions=truth.conversions.get(spec.name, Size(0.0, 0.0)),
            rotated=rotated,
        )


@dataclass(frozen=True)
class _Hearing:
    """The truth of one case, to which one runtime after the other is held."""

    case: Case
    record: CaseRecord
    truth: Truth
    manifest: Manifest
    inputs: Arrays
    override: Bound | None
    surveyed: SurveyListener | None

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model returns."""
        return self.manifest.model.outputs

    def hear(
        self, contender: Contender, runner: Runner, bounds: dict[str, Bound]
    ) -> Iterator[Comparison]:
        if contender.rotations_only and not self.case.rotations_only:
            for spec in self.outputs:
                yield self._record(runner, spec, "NOT_SUPPORTED", _NOT_SUPPORTED)
            return
        try:
            with contender.turn:
                results = runner.run(self.inputs)
        except RopeExportError as error:
            status: Status = "SKIPPED" if isinstance(error, MissingError) else "FAIL"
            for spec in self.outputs:
                yield self._record(runner, spec, status, str(error))
            return
        for spec in self.outputs:
            yield self.hold(runner, spec, results.get(spec.name), bounds[spec.name])[1]

    def hold(
        self, runner: Runner, spec: TensorSpec, got: NDArray[np.generic] | None, derived: Bound
    ) -> tuple[Difference, Comparison]:
        """Compare one output and hold it to its bound."""
        bound = self.override or derived
        survey = self._survey(spec, bound)
        expected = self.truth.outputs[spec.name]
        difference = compare(got, expected, spec.dtype, bound.rtol, survey)
        broken = bound.broken_by(difference)
        passed: Status = "EMULATED" if getattr(runner, "emulated", False) else "PASS"
        record = self._record(runner, spec, "FAIL" if broken else passed, broken or "")
        numbers, held_to = numbers_of(difference), bound_of(bound)
        record = record.model_copy(update={"numbers": numbers, "bound": held_to})
        if self.surveyed is not None and survey is not None and difference.elements:
            self.surveyed(record, survey)
        return difference, record

    def _survey(self, spec: TensorSpec, bound: Bound) -> CaseSurvey | None:
        if self.surveyed is None:
            return None
        lengths = space_of(self.manifest).lengths
        layout = layout_of(spec, self.truth.outputs[spec.name].shape, lengths)
        if layout is None:
            return None
        positions = token_positions(self.inputs, self.manifest.model.inputs, layout)
        return CaseSurvey(layout, positions, bound.max_abs, bound.rtol)

    def _record(self, runner: Runner, spec: TensorSpec, status: Status, reason: str) -> Comparison:
        return Comparison(
            runtime=runner.name,
            implementation=runner.implementation,
            output=spec.name,
            case=self.record,
            status=status,
            reason=reason,
        )


def _size(difference: Difference) -> Size | None:
    """Return an error as a yardstick; None where there is nothing sound to measure with."""
    return None if difference.faults else Size(difference.rms, difference.max_abs)
