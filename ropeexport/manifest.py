"""``manifest.json``: what an output folder holds, from which source, and what was built from it.

The models below are the schema.  A stage reads the manifest, adds its own record and writes it
back; nothing else passes between stages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from ropeexport import atomic, reading
from ropeexport.errors import ManifestError, RopeExportError

# 2: axes may be sums of others, and say who chose their sizes; the source of `fuse` has its place.
# Fields are added with a default, so that a folder of an older version is read.
SCHEMA_VERSION = 2
FILE_NAME = "manifest.json"
MODEL_NAME = "model.onnx"
ENGINE_NAME = "model.engine"

Implementation = Literal["plugin", "native", "decomposed"]
Attention = Literal["fused", "decomposed", "none"]
CacheForm = Literal["grow", "fixed"]
# what an input is for, for those who draw one
InputRole = Literal["data", "matrices", "positions", "mask", "grid", "still_grid"]
# that, or what an op's result is for those who judge it: an op says so of its own results
Role = InputRole | str
TreePath = tuple[str | int, ...]  # keys and indices, from an argument's name to a tensor in it


FROM_FILE = "file"  # the context of a record that anybody may have written
_LONGEST_SHOWN = 300  # characters of what a file says
_LARGEST_SIZE = 1 << 48

_DTYPES = frozenset({
    "bool", "bfloat16", "float16", "float32", "float64", "complex64", "complex128",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (2, 4, 8, 16, 32, 64)),
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
    "float4_e2m1fn",
})  # fmt: skip


def _of_folder(name: str) -> str:
    """Return a file's name if it is one of the folder's own, as a plain path from there."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
        raise ValueError(f"expected a file of the folder, as a path from there, got {name!r}")
    return name


# of a file that a manifest names: it may come from a stranger, and is read and loaded
FileName = Annotated[str, AfterValidator(_of_folder)]
# a version is a whole number as it is written: neither text nor true
Version = Annotated[int, Field(strict=True, ge=1)]
Size = Annotated[int, Field(ge=0, le=_LARGEST_SIZE)]


class Record(BaseModel):
    """A frozen record that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def changed(self, **fields: Any) -> Self:
        """Return a copy with other values of some fields."""
        return self.model_copy(update=fields)


Kind = TypeVar("Kind", bound=Record)


class TensorSpec(Record):
    """An input or output: a dimension is a size, a dynamic axis, or a sum of such.

    See :mod:`ropeexport.axes`: ``length``, ``past + length``.
    """

    name: str
    dtype: str  # NumPy's name, "bfloat16" included
    shape: tuple[Size | str, ...]
    # matrices: 2x2 matrices of a rope; positions: position ids; rotated: a rope's own output;
    # mask, axes, sizes, shape: whole numbers that say how an operator works; places: rows that are
    # written, each another; numbers: any others
    role: Role = "data"
    # integers that index a table: the rows that it has, a number or a sum of axes
    below: int | str | None = None
    # where an input lies in forward's arguments; empty: it is the argument of its name, or unknown
    path: TreePath = ()


def _check_specs(specs: Sequence[TensorSpec], where: str) -> set[str]:
    """Check what a runtime takes or gives, and return the names."""
    names: set[str] = set()
    for spec in specs:
        if spec.name in names:
            raise ValueError(f"{where}: expected each name once, got {spec.name!r} again")
        if spec.dtype not in _DTYPES:
            raise ValueError(f"{where}: {spec.name}: expected a type of numbers, got {spec.dtype}")
        if spec.role in ("grid", "still_grid") and (len(spec.shape) != 2 or spec.shape[1] != 3):
            raise ValueError(
                f"{where}: {spec.name}: expected the frames, rows and columns of images, "
                f"(images, 3), got {spec.shape}"
            )
        names.add(spec.name)
    return names


class Argument(Record):
    """An argument of ``forward``, or a part of one: an input, a fixed value, or a container.

    ``value`` is the input's name or what is fixed, ``keys`` are those of a dict.  ``unknown`` is
    an argument that has a part which JSON cannot hold.  Of what ``forward`` returns, an ``output``
    is in an input's place, and ``class`` is one of a library's, ``value`` its name,
    ``package.module:Class``, and ``keys`` its fields.
    """

    kind: Literal["input", "output", "fixed", "list", "tuple", "dict", "class", "unknown"]
    value: str | int | float | bool | None = None
    keys: TreePath = ()
    parts: tuple[Argument, ...] = ()

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if self.kind in ("dict", "class") and len(self.keys) != len(self.parts):
            raise ValueError(f"expected a key for each of {len(self.parts)} parts")
        return self

    def leaves(self) -> Iterator[Argument]:
        """Yield what is no container in it."""
        if self.kind in ("input", "output", "fixed", "unknown"):
            yield self
        for part in self.parts:
            yield from part.leaves()


class Forward(Record):
    """How the module's ``forward`` is called, and what it returns, in the names of the file.

    ``parameters`` are its arguments in order, ``defaults`` of those that have one which JSON can
    hold.  ``returns`` is what it returned at the export, ``returns_class`` what it returns with
    ``return_dict=True``, of a library's class; None: it has none, or it is not known.
    """

    parameters: tuple[str, ...] = ()
    defaults: dict[str, Argument] = {}
    returns: Argument | None = None
    returns_class: Argument | None = None


class Axis(Record):
    """A dynamic axis: the sizes it is meant for, and the axis or size that it broadcasts to.

    With ``broadcasts_to`` the axis has size 1 or the size of that axis (a name) or that number.
    ``chosen_by`` says where the sizes come from: the caller, what the module's config allows, what
    the module itself takes, or ropeexport's own choice.
    """

    min: Size
    opt: Size
    max: Size
    broadcasts_to: str | Size | None = None
    chosen_by: Literal["caller", "config", "module", "default"] = "caller"

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"expected min <= opt <= max, got {self.min}, {self.opt}, {self.max}")
        return self


class Source(Record):
    """What rebuilds the torch module: a built-in with its options, or a factory of the user's.

    Of ``module`` (an object of Python's) and ``config`` (a class of a library) only the name is
    known; ``onnx`` is a file, with its place beside the folder and its hash, see
    :func:`source_of_file`.
    """

    kind: Literal["builtin", "factory", "module", "config", "onnx"]
    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _places_are_text(self) -> Self:
        for name, value in self.options.items() if self.kind in ("config", "onnx") else ():
            if not isinstance(value, str):
                raise ValueError(f"options.{name}: expected text, got {type(value).__name__}")
        if self.kind == "onnx" and len({"path", "sha256"} & self.options.keys()) == 1:
            raise ValueError(f"options: expected path and sha256, got {', '.join(self.options)}")
        return self


class Refusal(Record):
    """A place that looks like a rotary application and was left as it is."""

    node: str
    reason: str


class RopeCount(Record):
    """How many rotary applications a graph has; one is a q/k pair, or one tensor rotated alone.

    What looks like one and could not be judged is not among those found.
    """

    found: int = 0
    replaced: int = 0
    refused: tuple[Refusal, ...] = ()
    not_judged: tuple[Refusal, ...] = ()


class WeightFile(Record):
    """A file that a model refers to, and what tells whether it is the same: one of the hashes."""

    file: FileName
    size: int
    header_sha256: str | None = None  # of a safetensors file
    sha256: str | None = None  # of a data file that was written with the model


class Weights(Record):
    """Weights outside of the ONNX file, and those that had to be copied into it."""

    files: tuple[WeightFile, ...]
    referenced_tensors: int
    referenced_bytes: int
    copied: tuple[str, ...] = ()  # names of the weights that a layout forced into the ONNX file
    prefix: str = ""  # of the module's names in those files, where the module is a part: "model."


class Comparison(Record):
    """What of the rewritten graph was compared, in float64, with the graph that it was made from.

    Regions are from a rotary op's data and the model's inputs to the op's results, the arithmetic
    of positions inside.
    """

    regions: int = 0
    shapes: tuple[dict[str, int], ...] = ()  # sizes of the dynamic axes
    max_position: int = 0  # the largest number that was drawn for a position
    # the largest error as a share of what is allowed for it; None: nothing was compared
    worst_region: float | None = None
    worst_whole: float | None = None  # of the whole graph's outputs
    without_whole: str = ""  # why the whole graph was not compared
    # cosines and sines of angles that are float32 as they were written: nothing else can be said
    # for them, or they were rewritten and departed
    left: tuple[Refusal, ...] = ()


class ModelRecord(Record):
    """The exported ONNX file."""

    file: FileName
    sha256: str
    opset: int
    dtype: str  # fp32, fp16 or bf16: the type of the data that is rotated
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ropes: tuple[str, ...]  # names of the nodes of ropeexport's rotary ops
    recognition: RopeCount = RopeCount()
    # of the rotary ops, those behind a norm, and those that norm first; None: they were not sought
    norms: RopeCount | None = None
    weights: Weights | None = None  # None: all weights are in the file
    # names of the module's state dict that are no initializer's: what each is tied to, and those
    # without which forward does as well; or with which the export has computed, in some place
    tied: dict[str, str] = {}
    absent: dict[str, Literal["unused", "computed"]] = {}
    # the largest position that the tables of exact angles hold, as the model makes it, beyond which
    # angles are NaN; None: the file has no such table
    table_limit: int | None = None
    # the same, as an input may have it; None: no one number says it
    max_position: int | None = None
    comparison: Comparison | None = None  # None: nothing was rewritten, or by an older version


class CacheRecord(Record):
    """The cache of a decoder: what it holds between calls, by the file's inputs and outputs.

    Of form ``grow``, past and present are as long as the tokens that are held; of ``fixed``, both
    are ``capacity`` long and may be the same memory.  ``pairs`` are the names of past and present,
    a layer's key and value after each other; ``total`` is the length of the mask, past and new
    tokens.
    """

    form: CacheForm
    capacity: int  # how many tokens may be held, the new ones included
    pairs: tuple[tuple[str, str], ...]
    total: str = "past + length"
    # a position from which rotations are others (longrope): the tokens are read again there
    reread_at: int | None = None
    # how many tokens the layer with the shortest view sees; None: all see everything
    window: int | None = None
    # tokens that end a text, stand before one, and pad one, by the model's own config
    eos: tuple[int, ...] = ()
    bos: int | None = None
    pad: int | None = None
    # what the model's own settings ask of a text beside the likeliest token: repetition_penalty=1.1
    asked: tuple[str, ...] = ()
    files: tuple[FileName, ...] = ()  # written beside the model, for other runtimes

    @property
    def layers(self) -> int:
        """How many layers keep a key and a value."""
        return len(self.pairs) // 2


class PluginRecord(Record):
    """The plugin library that an engine was built with."""

    name: str
    version: str
    namespace: str
    file: FileName
    sha256: str
    embedded: bool
    size: Size | None = None  # bytes; None: by an older version


class Profile(Record):
    """Shapes of each input at the profile's three points."""

    min: dict[str, tuple[Size, ...]]
    opt: dict[str, tuple[Size, ...]]
    max: dict[str, tuple[Size, ...]]

    def check(self) -> None:
        """Raise :class:`ValueError` where the three points are not of one kind, or out of order."""
        if not self.min.keys() == self.opt.keys() == self.max.keys():
            raise ValueError("expected the same inputs at min, opt and max")
        for name, opt in self.opt.items():
            low, high = self.min[name], self.max[name]
            if not len(low) == len(opt) == len(high):
                raise ValueError(f"{name}: expected shapes of one rank at min, opt and max")
            if not all(a <= b <= c for a, b, c in zip(low, opt, high, strict=True)):
                raise ValueError(f"{name}: expected min <= opt <= max, got {low}, {opt}, {high}")


class EngineRecord(Record):
    """An engine, what it was built from and which implementations it holds."""

    file: FileName
    sha256: str
    model_sha256: str
    flavour: str  # tensorrt-rtx or tensorrt
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profile: Profile  # of a decoder with a cache: to read a text, or a part of one
    ropes: dict[str, Implementation]  # by name of the ApplyRope node
    attention: Attention
    compute_capabilities: tuple[str, ...]  # "8.9"; empty: any that the flavour supports
    plugin: PluginRecord | None = None
    refittable: bool = False
    stripped: bool = False  # its refittable weights are not in it, and are put in at load
    weight_streaming: bool = False
    # the ONNX file's weights that can be exchanged in it, by the one name that they have in both,
    # and those that cannot, with the reason
    refits: tuple[str, ...] = ()
    fixed: dict[str, str] = {}
    # of a decoder with a cache: a second profile, of one token after those that are held, and the
    # inputs that are updated in place, each with the output that has its memory
    decode: Profile | None = None
    in_place: tuple[tuple[str, str], ...] = ()
    size: Size | None = None  # bytes; None: by an older version

    @property
    def files(self) -> tuple[str, ...]:
        """Its files in the folder: it, and the library that is loaded with it."""
        beside = self.plugin is not None and not self.plugin.embedded
        return (self.file, self.plugin.file) if self.plugin and beside else (self.file,)

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """Its profiles in the engine's own order."""
        return (self.profile,) if self.decode is None else (self.profile, self.decode)

    @model_validator(mode="after")
    def _fits(self, info: ValidationInfo) -> Self:
        if info.context != FROM_FILE:
            return self
        _check_specs(self.inputs, "inputs")
        _check_specs(self.outputs, "outputs")
        ranks = {spec.name: len(spec.shape) for spec in self.inputs}
        for profile in self.profiles:
            profile.check()
            # it may have more: a parser drops inputs that nothing reads
            found = {name: len(profile.opt[name]) for name in ranks if name in profile.opt}
            if found != ranks:
                raise ValueError(f"profile: expected inputs of the ranks {ranks}, got {found}")
        return self


class Manifest(Record):
    """The whole file."""

    schema_version: Version = SCHEMA_VERSION
    ropeexport: str
    source: Source
    model: ModelRecord
    axes: dict[str, Axis]
    # axes that are others: `2*_length`, all that the module takes; those that meet in a rotation
    relations: dict[str, str] = {}
    engine: EngineRecord | None = None
    arguments: dict[str, Argument] = {}  # of forward; empty: an older version's, or of a file
    cache: CacheRecord | None = None  # None: nothing is kept between calls, or unknown to be
    forward: Forward | None = None  # None: an older version's, or of a file

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the folder that it names, but for those with weights."""
        engine = self.engine.files if self.engine is not None else ()
        return (self.model.file, *engine, *(self.cache.files if self.cache is not None else ()))

    @model_validator(mode="after")
    def _agrees(self, info: ValidationInfo) -> Self:
        if info.context != FROM_FILE:  # what is made here is made of parts that agree
            return self
        inputs = _check_specs(self.model.inputs, "model.inputs")
        outputs = _check_specs(self.model.outputs, "model.outputs")
        self._check_axes()
        for name, tree in self.arguments.items():
            for leaf in tree.leaves():
                if leaf.kind == "output" or (leaf.kind == "input" and leaf.value not in inputs):
                    raise ValueError(f"arguments.{name}: expected an input, got {leaf.value!r}")
        for past, present in self.cache.pairs if self.cache is not None else ():
            if past not in inputs or present not in outputs:
                raise ValueError(
                    f"cache.pairs: expected an input and an output, got {past!r} and {present!r}"
                )
        return self

    def _check_axes(self) -> None:
        from ropeexport.axes import names_of  # it needs the records of this module

        for spec in self.model.inputs:
            unknown = [x for x in names_of(spec.shape) if x not in self.axes]
            if unknown:
                raise ValueError(
                    f"model.inputs: {spec.name}: expected an axis of {', '.join(self.axes)}, got "
                    f"{unknown[0]!r}"
                )
        used = names_of(dim for spec in self.model.inputs for dim in spec.shape)
        sized = {n for n, axis in self.axes.items() if axis.broadcasts_to is None and n in used}
        for name, axis in self.axes.items():
            target = axis.broadcasts_to
            if isinstance(target, str) and target not in sized:
                raise ValueError(
                    f"axes.{name}.broadcasts_to: expected a size, or an axis of an input with "
                    f"sizes of its own, got {target!r}"
                )


def source_of_file(path: Path, folder: Path) -> Source:
    """Return the source of a folder that is made of an ONNX file: its place and its hash."""
    place = os.path.relpath(path.resolve(), folder.resolve())
    options = {"path": Path(place).as_posix(), "sha256": atomic.sha256_of(path)}
    return Source(kind="onnx", name=path.name, options=options)


def read(folder: Path) -> Manifest:
    """Read the manifest of an output folder, of this version of ropeexport or an older one.

    Raises
    ------
    ManifestError
        Where there is none, or it is no manifest, or that of a newer version.
    """
    path = folder / FILE_NAME
    if not path.exists():
        left = next(folder.glob(f"{atomic.UNFINISHED}*"), None)
        if left is not None:  # what a kill leaves while an export's files take their places
            raise ManifestError(
                f"{folder}: expected {FILE_NAME}, found none but {left.name}: a command was killed "
                "while it put its files in place, or still does; the next command that writes into "
                f"the folder puts that right: run 'ropeexport check {folder}'",
                code="RX309",
            )
        raise ManifestError(
            f"{folder}: expected an output folder of 'ropeexport export' with {FILE_NAME}, "
            "found none; run 'ropeexport export MODEL -o DIR' first",
            code="RX308",
        )
    record = parsed(path, Manifest, ManifestError, SCHEMA_VERSION, "export")
    return record.changed(schema_version=SCHEMA_VERSION)


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of an output folder in one step."""
    atomic.write_text(folder / FILE_NAME, manifest.model_dump_json(indent=2) + "\n")


def refuse_existing(folder: Path, force: bool) -> None:
    """Raise :class:`UsageError` where an export would overwrite something without ``force``."""
    for name in (MODEL_NAME, FILE_NAME):
        atomic.refuse_existing(folder / name, force)
        atomic.require_replaceable(folder / name)


def parsed(
    path: Path, kind: type[Kind], error: type[RopeExportError], newest: int, verb: str
) -> Kind:
    """Read a file of records; whatever is wrong with it is one clear line.

    Parameters
    ----------
    path : Path
        The file.
    kind : type
        The record that the whole file is.
    error : type
        What is raised.
    newest : int
        The schema's version that is written today, beyond which nothing is read.
    verb : str
        What makes such a file anew.
    """
    text = reading.read_bytes(path, error)
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None  # which reading it says
    found = given.get("schema_version", newest) if isinstance(given, dict) else newest
    if type(found) is int and found > newest:
        raise error(
            f"{path}: expected schema {newest} or older, got {_short(found)}, of ropeexport "
            f"{_short(given.get('ropeexport', 'of another version'))}; upgrade ropeexport, or "
            f"{verb} again",
            code="RX311",
        )
    try:
        return kind.model_validate_json(text, context=FROM_FILE)
    except ValidationError as fault:
        raise error(
            f"{path}: not a {kind.__name__.lower()} of schema {newest} or older: "
            f"{first_fault(fault)}; {verb} again with this version of ropeexport",
            code="RX310",
        ) from fault


def _short(value: object) -> str:
    try:
        text = str(value)
    except ValueError:  # a number of thousands of digits
        text = "a number of too many digits"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def first_fault(error: ValidationError) -> str:
    """Return the first thing that is wrong with a file, and where, in a line."""
    fault = error.errors()[0]
    where = _short(".".join(str(part) for part in fault["loc"]))
    text = _short(fault["msg"].removeprefix("Value error, ").replace("\n", " "))
    return f"{where}: {text}" if where else text
