"""``parity.json``: the records of a parity run and their schema; every report is made of them."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, NonNegativeInt, model_validator

import ropeexport
from ropeexport.machine import versions_of
from ropeexport.manifest import Record, Version
from ropeexport.parity.compare import Difference
from ropeexport.parity.survey import Survey, first_of_bin
from ropeexport.parity.tolerance import share_of
from ropeexport.runners.registry import distributions

SCHEMA_VERSION = 1
# and what runtimes bring
_DESCRIBED = (
    "numpy", "ml_dtypes", "onnx", "onnxscript", "torch", "diffusers", "transformers",
)  # fmt: skip
FILE_NAME = "parity.json"

# EMULATED: within its bounds, in a stand-in for a runtime that this machine lacks
Status = Literal["PASS", "FAIL", "EMULATED", "SKIPPED", "NOT_SUPPORTED"]
Verdict = Literal["PASS", "FAIL"]


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# JSON has no NaN and no infinity: null stands for them
Number = Annotated[float | None, BeforeValidator(_finite_or_none)]


class WorstRecord(Record):
    """The worst element: its coordinates and both values."""

    index: tuple[int, ...]
    got: Number
    expected: Number


class Numbers(Record):
    """How far an output is from the oracle, see :class:`ropeexport.parity.compare.Difference`."""

    elements: int
    max_abs: Number
    # the largest error beyond what the bound forgives relative to its element
    excess: Number = None
    max_rel: Number
    max_ulps: Number
    ulps_at_rms: Number
    rms: Number
    relative_l2: Number
    cosine: Number
    worst: WorstRecord | None
    nans: int = 0  # elements that are not finite as documented: the other numbers leave them out


class BoundRecord(Record):
    """What an output was held to; a null is no bound."""

    max_abs: Number
    rms: Number
    rule: str  # rounding, eager, override, or the rule of an op of ropeexport: rotation
    rtol: float


class CaseRecord(Record):
    """The inputs of a comparison: enough to make them again."""

    name: str
    kind: str
    sizes: dict[str, int]
    seed: int


class TokensRecord(Record):
    """How many tokens of a text of ``generate()`` an output would choose otherwise.

    ``forced`` are those whose logits are nearer each other than the bound: a tie, which the text
    goes on from with the token of ``generate()``.  ``fault`` is what is wrong, in a line.
    """

    compared: int
    forced: int = 0
    differing: int = 0
    fault: str = ""

    @property
    def text(self) -> str:
        """How many are those of ``generate()``, for people."""
        equal = self.compared - self.forced - self.differing
        if equal == self.compared:
            return f"all {equal:,} tokens of generate()"
        ties = f", {self.forced:,} more within the bound" if self.forced else ""
        return f"{equal:,} of {self.compared:,} tokens of generate(){ties}"


class Comparison(Record):
    """One output of one runtime in one case."""

    runtime: str
    implementation: str
    output: str
    case: CaseRecord | None  # None: the runtime did not run at all
    status: Status
    reason: str = ""
    numbers: Numbers | None = None
    bound: BoundRecord | None = None
    tokens: TokensRecord | None = None  # of a generated text's logits

    @property
    def share(self) -> float:
        """The share of its bound that an output uses; 0 where it was held to none."""
        if self.numbers is None or self.bound is None:
            return 0.0
        return share_of(self.numbers, self.bound)


class RuntimeRecord(Record):
    """A runtime of the run: what it was, and its status over all its comparisons."""

    name: str
    implementation: str  # as people read it: implementations, joined
    version: str
    device: str  # where it computed: cpu, cuda
    status: Status
    reason: str = ""
    implementations: tuple[str, ...] = ()  # what computed the ropes
    provider: str = ""  # what executed, where the runtime has several: an execution provider
    # the floating types that its operators computed in, where it says; else those of the file
    precision: tuple[str, ...] = ()
    tokens: TokensRecord | None = None  # over all generated texts

    @property
    def facts(self) -> tuple[str, ...]:
        """What it was, for people: version, what executed, in which types, what computed ropes.

        And what it says, where that was compared.
        """
        types = f"in {' and '.join(self.precision)}" if self.precision else ""
        said = self.tokens.text if self.tokens else ""
        told = (self.version, self.provider or self.device, types, self.implementation, said)
        return tuple(fact for fact in told if fact)


class PositionBin(Record):
    """Errors at the positions from ``first`` to the next bin's, as shares of the bound."""

    first: NonNegativeInt
    elements: NonNegativeInt
    rms: Number
    largest: Number


class HeatMap(Record):
    """The worst case of one output of one runtime: the largest share of the bound of each cell.

    ``rows`` run over the positions 0 to ``length``, each row over the heads (as many groups of
    columns) and the elements that a position holds; a null is not finite.
    """

    case: str
    length: NonNegativeInt
    heads: NonNegativeInt
    inner: NonNegativeInt
    rows: tuple[tuple[Number, ...], ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        columns = sorted({len(row) for row in self.rows})
        most, heads = self.heads * self.inner, max(1, self.heads)
        if columns and (len(columns) > 1 or columns[0] % heads or not 0 < columns[0] <= most):
            raise ValueError(
                f"rows: expected as many columns in each, a multiple of {self.heads} heads, at "
                f"most {most}, got {' and '.join(map(str, columns[:2]))}"
            )
        return self


class SurveyRecord(Record):
    """Where the errors of one output of one runtime lie, over all its cases.

    ``shares`` counts elements by their error's share of the bound of its case: exact ones, then
    those of at most 2^-20, 2^-19 and so on to 2^3, and beyond; large outputs are sampled.
    """

    runtime: str
    output: str
    shares: tuple[int, ...]
    positions: tuple[PositionBin, ...]
    worst: HeatMap | None


class LocationRecord(Record):
    """Where a runtime departs first in a failing case; without ``tensor``, why that is unknown.

    ``sound`` are the inputs of its node that are within their bounds, ``not_compared`` those with
    no counterpart in what it is held to.
    """

    runtime: str
    case: str
    tensor: str = ""
    node: str = ""
    op: str = ""
    source: str = ""  # file:line: code
    reason: str = ""
    sound: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()
    compared: int = 0  # tensors


class PixelsRecord(Record):
    """How many values of a picture, of every channel, are at another level of 0 to 255.

    ``allowed`` are those that differ by one level where eager's own value lies within ``bound`` of
    the edge between the two.
    """

    values: int
    differing: int
    allowed: int
    refused: int
    largest: int  # in levels
    bound: Number


class PictureRecord(Record):
    """What a pipeline made in one call with one runtime in its component's place.

    ``latents`` are the last ones, held to the float64 oracle; ``pixels`` are held to eager's.
    """

    runtime: str
    status: Status
    reason: str = ""
    latents: Numbers | None = None
    bound: BoundRecord | None = None
    pixels: PixelsRecord | None = None
    # files of the folder ``pipeline``: the picture, and how far it is from eager's, brightened
    picture: str = ""
    difference: str = ""
    scale: int = 1

    @property
    def share(self) -> float:
        """The share of its bound that the latents use; 0 where there are none."""
        if self.latents is None or self.bound is None:
            return 0.0
        return share_of(self.latents, self.bound)


class CallRecord(Record):
    """One call of a pipeline: eager's picture and those of the runtimes.

    ``without_rope`` is what becomes of the picture where no rope is applied: where that is within
    the bounds too, the call proves nothing.
    """

    name: str
    arguments: str
    picture: str = ""
    pictures: tuple[PictureRecord, ...] = ()
    without_rope: PictureRecord | None = None


class PipelineRecord(Record):
    """A pipeline whose component was exchanged for the export."""

    pipeline: str
    component: str
    calls: tuple[CallRecord, ...] = ()
    # whether pixels decide, and not the latents alone: in float32
    pixels_decide: bool = True

    @property
    def pictures(self) -> tuple[PictureRecord, ...]:
        """Those of every call."""
        return tuple(picture for call in self.calls for picture in call.pictures)


class Environment(Record):
    """The machine and the packages of a run."""

    ropeexport: str
    python: str
    platform: str
    machine: str
    packages: dict[str, str]

    @property
    def versions(self) -> dict[str, str]:
        """What reports show of it, by name."""
        shown = {name: getattr(self, name) for name in ("ropeexport", "python", "platform")}
        return shown | self.packages


def describe() -> Environment:
    """Return the environment of this process."""
    return Environment(
        ropeexport=ropeexport.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        machine=platform.machine(),
        packages=versions_of((*_DESCRIBED, *distributions())),
    )


class Report(Record):
    """A whole parity run."""

    schema_version: Version = SCHEMA_VERSION
    verdict: Verdict
    reason: str = ""
    complete: bool = True
    model: str
    model_sha256: str
    dtype: str
    source: str
    seed: int
    command: str = ""  # what makes this report again
    lengths: tuple[str, ...] = ()  # names of the sizes that are lengths
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    environment: Environment
    runtimes: tuple[RuntimeRecord, ...]
    comparisons: tuple[Comparison, ...]
    surveys: tuple[SurveyRecord, ...] = ()
    locations: tuple[LocationRecord, ...] = ()
    pipeline: PipelineRecord | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = {runtime.name for runtime in self.runtimes}
        named = [part.runtime for part in self.comparisons] + [x.runtime for x in self.surveys]
        for name in named:
            if name not in known:
                raise ValueError(f"runtime: expected one of {sorted(known)}, got {name!r}")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """The largest share of a bound that each runtime uses."""
        found: dict[str, float] = {}
        for comparison in self.comparisons:
            name = comparison.runtime
            found[name] = max(comparison.share, found.get(name, 0.0))
        return found

    @property
    def cases(self) -> set[str]:
        """The names of the cases that were run."""
        return {c.case.name for c in self.comparisons if c.case and c.status != "SKIPPED"}

    @property
    def headline(self) -> str:
        """What the verdict is about, in one line."""
        if self.reason:
            return self.reason
        cases, calls = len(self.cases), len(self.pipeline.calls) if self.pipeline else 0
        parts = [f"{cases:,} case{'s' * (cases != 1)}"] if cases or not self.pipeline else []
        if self.pipeline:
            parts.append(f"{calls} call{'s' * (calls != 1)} of {self.pipeline.pipeline}")
        return f"{', '.join(parts)}, seed {self.seed}"


def numbers_of(difference: Difference) -> Numbers | None:
    """Return a difference as a record; None where nothing could be measured."""
    if difference.elements == 0:
        return None
    return Numbers.model_validate(difference, from_attributes=True)


def tokens_of(comparisons: Iterable[Comparison]) -> TokensRecord | None:
    """Return the tokens of several comparisons together; None where none has any."""
    found = [comparison.tokens for comparison in comparisons if comparison.tokens is not None]
    if not found:
        return None
    compared, forced, differing = (
        sum(getattr(each, name) for each in found) for name in ("compared", "forced", "differing")
    )
    fault = next((each.fault for each in found if each.fault), "")
    return TokensRecord(compared=compared, forced=forced, differing=differing, fault=fault)


def survey_of(runtime: str, output: str, survey: Survey) -> SurveyRecord:
    """Return a survey as a record; numbers are kept to four digits."""
    return SurveyRecord(
        runtime=runtime,
        output=output,
        shares=tuple(int(count) for count in survey.shares),
        positions=tuple(_position_bins(survey)),
        worst=_heat_map(survey),
    )


def _position_bins(survey: Survey) -> Iterator[PositionBin]:
    for number, elements in enumerate(survey.elements):
        if elements:
            yield PositionBin(
                first=first_of_bin(number),
                elements=int(elements),
                rms=_short(math.sqrt(survey.squares[number] / elements)),
                largest=_short(survey.largest[number]),
            )


def _heat_map(survey: Survey) -> HeatMap | None:
    at = survey.worst_layout
    if at is None:
        return None
    rows = tuple(tuple(_short(share) for share in row) for row in survey.worst_map)
    return HeatMap(
        case=survey.worst_case, length=at.length, heads=at.heads, inner=at.inner, rows=rows
    )


def _short(value: float) -> float:
    return float(f"{value:.4g}")
