"""One case: the truth, eager, the yardsticks of each output, and every contender held to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ropeexport.dtypes import float_type, is_float
from ropeexport.errors import MissingError, NotComparableError, ParityError, RopeExportError
from ropeexport.manifest import Manifest, Role, TensorSpec
from ropeexport.ops.registry import op_of_role
from ropeexport.parity import tolerance
from ropeexport.parity.cases import BEYOND, Case, select, space_of
from ropeexport.parity.compare import Difference, compare
from ropeexport.parity.contenders import Contender
from ropeexport.parity.inputs import make_inputs, probes_of
from ropeexport.parity.records import (
    BoundRecord,
    CaseRecord,
    Comparison,
    Status,
    TokensRecord,
    numbers_of,
)
from ropeexport.parity.references import Truth, TruthTeller, run_in_two_orders, run_twice
from ropeexport.parity.survey import CaseSurvey, layout_of, token_positions
from ropeexport.parity.tolerance import Bound, Size, Yardstick
from ropeexport.runners.runner import Array, Arrays, Facts, Reference, Runner

# Hears each comparison together with the survey of its errors
SurveyListener = Callable[[Comparison, CaseSurvey], None]
# Counts for an output of a case, given the inputs, the truth, what was got and the bound
TokenCount = Callable[[Case, str, Arrays, Truth, Array, Bound], TokensRecord | None]

_NOT_SUPPORTED = "right for rotations only; the matrices of this case are none"
_DROPS_NAN = "gives wrong numbers where the file says NaN"


@dataclass(frozen=True)
class Judge:
    """What every case of a run is judged with.

    Parameters
    ----------
    manifest : Manifest
        Inputs and outputs.
    oracle : TruthTeller
        The exact outputs.
    eager : Reference
        The yardstick, entered.
    override : Bound or None
        The user's own bound in place of the derived ones.
    inputs : callable, optional
        Makes a case's arrays, in place of those that its seed makes.
    probes : sequence of mapping, optional
        Arrays of small cases, to see that eager and the oracle are functions of their inputs.
    surveyed : callable, optional
        Hears where the errors of each comparison lie.
    tokens : callable, optional
        Counts the tokens of a generated text that an output would choose otherwise.
    must_prove : bool
        Whether a derived bound beyond the output's own size is a failure.
    reference_roles : mapping, optional
        Of eager's outputs, where it is a file that the manifest's is made of: an op's rule is
        promised by the op, and that file may compute the same in other operators.
    of_file : bool
        Whether the reference is a file alone: what it has no numbers for (NaN, an empty output) is
        its result, and what is compared with it has to have the same.
    """

    manifest: Manifest
    oracle: TruthTeller
    eager: Reference
    override: Bound | None = None
    surveyed: SurveyListener | None = None
    inputs: Callable[[Case], Arrays] | None = None
    probes: Sequence[Arrays] | None = None
    tokens: TokenCount | None = None
    must_prove: bool = True
    reference_roles: Mapping[str, Role] | None = None
    of_file: bool = False

    def check_references(self) -> None:
        """Raise :class:`NotRepeatableError` where eager or the oracle is no function of its inputs.

        On small designed cases, whatever a run is asked for; to be run alone and first of all.
        """
        model, probes = self.manifest.model, self.probes
        if probes is None:
            probes = probes_of(select(self.manifest).cases, model)
        if self.of_file:
            probes = [inputs for inputs in probes if self._refusal(inputs) is None]
        if not probes:
            return
        run_in_two_orders(self.eager.name, self.eager, probes)
        run_in_two_orders("the float64 oracle", self.oracle, probes)

    def _refusal(self, inputs: Arrays) -> NotComparableError | None:
        """Return why the reference, a file, gives nothing for some inputs."""
        try:
            self.eager.in_a_row([inputs])
            self.oracle.in_a_row([inputs])
        except NotComparableError as error:
            return error
        return None

    def judge(self, case: Case, contenders: list[Contender]) -> Iterator[Comparison]:
        """Yield the comparisons of eager and of each contender that runs, output by output."""
        model = self.manifest.model
        inputs = (
            self.inputs(case)
            if self.inputs
            else make_inputs(case, model.inputs, model.max_position)
        )
        record = CaseRecord(name=case.name, kind=case.kind, sizes=dict(case.sizes), seed=case.seed)
        try:
            eager = run_twice(self.eager.name, self.eager, inputs)
            truth = self.oracle.truth(inputs, case.seed)
        except NotComparableError as error:
            if not self.of_file:
                raise
            everyone: tuple[Reference | Contender, ...] = (self.eager, *contenders)
            for each, spec in product(everyone, model.outputs):
                who, why = (each.name, each.facts), str(error)
                yield comparison_of(*who, spec.name, "SKIPPED", why, case=record)
            return
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ParityError(
                f"case {case.name!r}: {self.eager.name} itself failed: {error}; "
                "--lengths chooses other lengths",
                code="RX703",
            ) from error
        hearing = _Hearing(self, case, record, truth, inputs)
        bounds = {}
        for spec in model.outputs:
            roles = self.reference_roles  # an output has its role in the reference's own graph
            own = spec if roles is None else spec.changed(role=roles.get(spec.name, "data"))
            bound = tolerance.eager_bound(self._yardstick(own, inputs, truth))
            name, facts, got = self.eager.name, self.eager.facts, eager.get(spec.name)
            difference, comparison = hearing.hold(name, facts, spec, got, bound)
            yardstick = self._yardstick(spec, inputs, truth)
            yardstick = yardstick.with_eager(tolerance.size_of_error(difference))
            bounds[spec.name] = tolerance.bound(yardstick)
            yield comparison
        del eager
        for contender in contenders:
            if contender.runner is not None:
                yield from hearing.hear(contender, contender.runner, bounds)

    def failed(self, output: str, reason: str) -> Comparison:
        """Return the record of a reference that is no function of its inputs."""
        first = self.manifest.model.outputs[0].name
        return comparison_of(self.eager.name, self.eager.facts, output or first, "FAIL", reason)

    def _yardstick(self, spec: TensorSpec, inputs: Arrays, truth: Truth) -> Yardstick:
        data = [s.dtype for s in self.manifest.model.inputs if s.role == "data"]
        # whole numbers of a model that takes no others: as exact as the coefficients' float32
        types = [dtype for dtype in (spec.dtype, *data) if is_float(dtype)] or ["float32"]
        op = op_of_role(spec.role)
        sizes = (size for x in inputs.values() for size in x.shape)
        return Yardstick(
            dtype=spec.dtype,
            working_roundoff=max(float_type(dtype).unit_roundoff for dtype in types),
            terms=(op and op.terms) or max([self.oracle.widest, *sizes]),
            output=truth.sizes[spec.name],
            sensitivity=truth.sensitivity[spec.name],
            data_rms=truth.data_rms,
            conversions=truth.conversions.get(spec.name, Size(0.0, 0.0)),
            rule=op.rule if op is not None else "",
        )


@dataclass(frozen=True)
class _Hearing:
    """The truth of one case, to which one runtime after the other is held."""

    judge: Judge
    case: Case
    record: CaseRecord
    truth: Truth
    inputs: Arrays

    def hear(
        self, contender: Contender, runner: Runner, bounds: dict[str, Bound]
    ) -> Iterator[Comparison]:
        name, facts = contender.name, contender.facts
        if facts.rotations_only and not self.case.rotations_only:
            yield from self._without_numbers(contender, "NOT_SUPPORTED", _NOT_SUPPORTED)
            return
        try:
            with contender.turn:
                results = runner.run(self.inputs)
        except RopeExportError as error:
            status: Status = "SKIPPED" if isinstance(error, MissingError) else "FAIL"
            yield from self._without_numbers(contender, status, str(error))
            return
        for spec in self.judge.manifest.model.outputs:
            got, bound = results.get(spec.name), bounds[spec.name]
            found = self.hold(name, facts, spec, got, bound, allow_nan=self.is_beyond)[1]
            yield found if contender.keeps_nan else self._without_nan(found)

    def _without_numbers(
        self, contender: Contender, status: Status, reason: str
    ) -> Iterator[Comparison]:
        name, facts = contender.name, contender.facts
        for spec in self.judge.manifest.model.outputs:
            yield comparison_of(name, facts, spec.name, status, reason, case=self.record)

    @property
    def is_beyond(self) -> bool:
        """Whether every position of the case lies beyond the file's tables of angles."""
        return self.case.kind == BEYOND

    def hold(
        self,
        name: str,
        facts: Facts,
        spec: TensorSpec,
        got: Array | None,
        derived: Bound,
        *,
        allow_nan: bool = False,
    ) -> tuple[Difference, Comparison]:
        """Compare one output and hold it to its bound; NaN only where that is documented."""
        bound = self.judge.override or derived
        survey = self._survey(spec, bound)
        expected = self.truth.outputs[spec.name]
        difference = compare(
            got, expected, spec.dtype, bound.rtol, survey,
            allow_nan=allow_nan, as_expected=self.judge.of_file,
        )  # fmt: skip
        broken = bound.broken_by(difference)
        if self.judge.must_prove and broken is None:
            broken = bound.too_wide_for(self.truth.sizes[spec.name])
        tokens = None
        if self.judge.tokens is not None and got is not None and not difference.faults:
            tokens = self.judge.tokens(self.case, spec.name, self.inputs, self.truth, got, bound)
            faults = (broken, tokens.fault if tokens else None)
            broken = "; ".join(filter(None, faults)) or None
        passed: Status = "EMULATED" if facts.emulated else "PASS"
        status, reason = "FAIL" if broken else passed, broken or self._documented(difference)
        record = comparison_of(name, facts, spec.name, status, reason, case=self.record).changed(
            numbers=numbers_of(difference),
            bound=BoundRecord.model_validate(bound, from_attributes=True),
            tokens=tokens,
        )
        surveyed = self.judge.surveyed
        if surveyed is not None and survey is not None and difference.elements:
            surveyed(record, survey)
        return difference, record

    def _without_nan(self, found: Comparison) -> Comparison:
        """Return what was found; a number where a runtime should give NaN is no fault of a file."""
        if not self.is_beyond or found.status != "FAIL" or found.numbers is None:
            return found
        beyond = f"positions beyond {self.judge.manifest.model.max_position} must be kept from it"
        reason = f"{_DROPS_NAN}: {beyond} ({found.reason})"
        return found.changed(status="NOT_SUPPORTED", reason=reason, numbers=None, bound=None)

    def _documented(self, difference: Difference) -> str:
        if not difference.nans:
            return ""
        if self.judge.of_file:
            return f"not finite in {difference.nans} of {difference.elements} elements, as expected"
        return (
            f"NaN in {difference.nans} of {difference.elements} elements, as documented for "
            f"positions beyond {self.judge.manifest.model.max_position}"
        )

    def _survey(self, spec: TensorSpec, bound: Bound) -> CaseSurvey | None:
        if self.judge.surveyed is None or self.is_beyond:  # NaN is no error, no share of a bound
            return None
        record = self.judge.manifest
        shape, lengths = self.truth.outputs[spec.name].shape, space_of(record).lengths
        layout = layout_of(spec, shape, lengths)
        if layout is None:
            return None
        positions = token_positions(self.inputs, record.model.inputs, layout)
        return CaseSurvey(layout, positions, bound.max_abs, bound.rtol)


def comparison_of(
    who: str, facts: Facts, output: str, status: Status, why: str, *, case: CaseRecord | None = None
) -> Comparison:
    """Return the record of one output of a runtime without numbers, of no case where none ran."""
    return Comparison(
        runtime=who,
        implementation=facts.made_of,
        output=output,
        case=case,
        status=status,
        reason=why,
    )
