"""``export``, ``fuse`` and ``build``: what writes an output folder, and what is returned of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from ropeexport.artifact import Artifact
from ropeexport.errors import UsageError
from ropeexport.given import check_text, path_if, path_of, whole, whole_if
from ropeexport.locking import locks
from ropeexport.machine import require
from ropeexport.manifest import (
    CacheForm,
    EngineRecord,
    InputRole,
    Manifest,
    Refusal,
    RopeCount,
    Source,
)
from ropeexport.ops.names import APPLY_ROPE, ATTENTION_IN_BLOCKS, GROUPED_ATTENTION, NORM_ROPE

if TYPE_CHECKING:
    from torch import nn

    from ropeexport.child_process import OnNote, OnProgress
    from ropeexport.exporting.passes import Say
    from ropeexport.models.axes import Given
    from ropeexport.models.example import Example
    from ropeexport.models.sources import Module
    from ropeexport.parity.records import Report
    from ropeexport.trt.build import Choice


Shapes = str | Mapping[str, Sequence[int]]
AttentionForm = Literal["standard", "blocks", "gqa"]
_OPS: dict[AttentionForm, tuple[str, ...]] = {  # what a file is to have
    "standard": (),
    "blocks": (ATTENTION_IN_BLOCKS,),
    "gqa": (GROUPED_ATTENTION,),
}
Fusing = Literal["rope", "norm-rope", "none"]
_FUSED: dict[Fusing, tuple[str, ...]] = {
    "rope": (APPLY_ROPE,),
    "norm-rope": (APPLY_ROPE, NORM_ROPE),
    "none": (),
}


@locks("out", "export", makes=True)
def export(  # noqa: PLR0913  (a user's choices, all but three by keyword)
    module: nn.Module | Callable[[], nn.Module] | Example | str,
    kwargs: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    *,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    axes: Mapping[str, Given] | None = None,
    roles: Mapping[str, InputRole] | None = None,
    output_names: str | Sequence[str] = (),
    weights: str | Path | None = None,
    copy_weights: bool = False,
    hash_weights: bool = False,
    cache: CacheForm | None = None,
    capacity: int | None = None,
    attention: AttentionForm = "standard",
    opset: int = 23,
    force: bool = False,
    require_rope: int | None = None,
    max_position: int = 1_049_599,
    fuse: Fusing = "rope",
    say: Say | None = None,
    **model: Unpack[ModelOptions],
) -> Export:
    """Export a module to ONNX, every rotary application that can be proven as an op.

    The module is left as it was, its training mode included, whatever happens.

    Parameters
    ----------
    module : nn.Module, callable, Example or str
        A module, exported in evaluation mode; with ``weights``, a callable that makes it in its
        final type; an :class:`Example`; or a MODEL of the command line: a built-in's name,
        ``FILE.py:NAME``, ``diffusers:CLASS``, ``transformers:DIR``.
    kwargs : dict
        Arguments of ``forward`` by name: tensors, or lists, tuples and dicts of them.  Each tensor
        is an input of the file, in a tree by the name of its path, ``past.0.key``; the rest is
        fixed.  A model of diffusers or transformers whose inputs are known needs none.
    out : path
        The output folder.
    dynamic_axes : dict
        Input name to ``{axis: name}``, or the name of a tree for all inputs in it; a name may be a
        sum, ``past + length``, ``8*blocks``.  Axes that are not named keep the size they have.  One
        that the module takes in one way alone (even, or as another axis) becomes that, see
        ``manifest.relations``.
    axes : dict
        Sizes that dynamic axes are meant for: name to ``(min, opt, max)`` or :class:`Axis`.  Others
        get a usual range: a batch 1 to 8, a length 1 to what the module's config allows, else 4096.
    roles : dict
        What an input holds, by its name or a tree's: ``data``, ``matrices`` of a rope or
        ``positions``; by default what the traced graph says.
    output_names : str or sequence of str
        Names of the outputs; by default ``out`` of a single one, torch's names of a plain tuple,
        and of a dict or a deeper tree their paths: ``logits``, ``present.key``, ``out.1.0``.  An
        input or a weight keeps its name: ``out`` becomes ``out_1``.
    weights : path
        A folder of safetensors files by the module's names: none of them is read or written.
    copy_weights : bool
        Copy those files into ``out``; else ``out`` has to be their folder.
    hash_weights : bool
        Read those files and put their hashes into the manifest, for ``load(verify="all")``.
    cache : str
        Of a language model of transformers, and of what it keeps between calls: ``grow``, tensors
        of as many tokens as are held, which every runtime takes; ``fixed``, tensors of
        ``capacity`` tokens that are written in their place (opset 24).  Inputs and outputs have
        the names that optimum and onnxruntime-genai read; kwargs are not needed.
    capacity : int
        How many tokens the cache may hold, a prompt and what follows it; by default what the
        model's config allows, of a fixed one 4096 at most.
    attention : str
        ``standard``: ONNX's Attention, for every runtime; ``blocks``: the file keeps its memory on
        long sequences in a bare onnxruntime too, by an op that other tools may not take; ``gqa``,
        with a cache: attention is onnxruntime's own ``GroupQueryAttention`` where that takes the
        sizes, for bare onnxruntime and onnxruntime-genai.  Where ropeexport runs a file in
        onnxruntime, it does so either way.
    opset : int
        23 or later.
    force : bool
        Overwrite what is there.
    require_rope : int
        How many rotary applications must be replaced.
    max_position : int
        The largest position that the tables of exact angles must hold; beyond, angles are NaN.
    fuse : str
        ``rope``: every rotary application that can be proven is an op; ``norm-rope``: with the norm
        of q and k before it and what brings them into its layout, where that is proven too, for one
        kernel that reads and writes them once; ``none``: what is written out stays so.
    say : callable
        Called after each pass over the graph with its name and what it did.
    batch, heads, head_dim, length, dtype, config
        For a MODEL that is named: sizes and type of a built-in, type and config of a library's.
    trust_remote_code : bool
        For ``transformers:CONFIG``: let code run that the config brings along (``auto_map``), where
        transformers has no class of its own; without it such a config is refused by name.

    Returns
    -------
    Export
        With ``found``, ``replaced`` and ``refused``, and with ``check()`` and ``build()``.

    Raises
    ------
    UsageError, ExportError, LockedError
        With what was expected, what was found and the next step.

    Examples
    --------
    >>> import torch, ropeexport
    >>> x, pe = torch.zeros(1, 6, 4, 16), torch.zeros(1, 1, 6, 8, 2, 2)
    >>> class Attention(torch.nn.Module):
    ...     def forward(self, x, pe):
    ...         q = x.transpose(1, 2)
    ...         return ropeexport.attention(q, q, q, pe)
    >>> made = ropeexport.export(
    ...     Attention(), {"x": x, "pe": pe}, "out",
    ...     dynamic_axes={"x": {0: "batch", 1: "length"}, "pe": {2: "length"}},
    ...     axes={"batch": (1, 1, 4)}, output_names=["attended"],
    ... )
    >>> made.found, made.replaced
    (1, 1)
    >>> made.manifest.axes["length"].max
    4096
    >>> made.check(cases=4).verdict
    'PASS'

    A cache that grows, empty at first:

    >>> class Cached(torch.nn.Module):
    ...     def forward(self, x, past):
    ...         key = torch.cat([past["key"], x], 2)
    ...         value = torch.cat([past["value"], x], 2)
    ...         y = torch.nn.functional.scaled_dot_product_attention(x, key, value)
    ...         return y, {"key": key, "value": value}
    >>> past = {"key": torch.zeros(1, 2, 5, 8), "value": torch.zeros(1, 2, 5, 8)}
    >>> made = ropeexport.export(
    ...     Cached(), {"x": torch.zeros(1, 2, 3, 8), "past": past}, "cached",
    ...     dynamic_axes={"x": {2: "length"}, "past": {2: "past"}}, axes={"past": (0, 64, 256)},
    ... )
    >>> [spec.name for spec in made.manifest.model.inputs]
    ['x', 'past.key', 'past.value']
    >>> [spec.name for spec in made.manifest.model.outputs]
    ['out.0', 'out.1.key', 'out.1.value']
    >>> made.check(cases=4).verdict
    'PASS'

    A built-in by its name:

    >>> ropeexport.export("flux-attention", out="flux", heads=2, head_dim=16, dtype="fp16").replaced
    1
    """
    require("torch", "onnxscript")
    from torch import nn

    from ropeexport import manifest
    from ropeexport.exporting.exporter import export_example
    from ropeexport.models.axes import check_names, with_given
    from ropeexport.models.example import checked, evaluated, unchanged
    from ropeexport.parity.options import several

    check_names("roles", roles or {}, "{input: what it holds}")
    if capacity is not None and cache is None:
        raise UsageError(
            "capacity: only with a cache: add cache='grow' or 'fixed' (--cache grow or fixed)",
            code="RX108",
        )
    if out is None:
        raise UsageError("out: expected the output folder, got none: add out=", code="RX109")
    capacity = whole_if("capacity", capacity, 2)
    require_rope = whole_if("--require-rope", require_rope)
    folder = path_of("out", out)
    manifest.refuse_existing(folder, force)
    place = path_if("weights", weights)
    if isinstance(module, str):
        check_text("MODEL", module)
        if any(x is not None for x in (kwargs, dynamic_axes, weights)):
            raise UsageError(
                f"{module}: kwargs, dynamic_axes and weights are for a module", code="RX108"
            )
        example, source = named(module, model, cache, capacity)
        held: Any = module if source.kind == "factory" else None
    else:
        if model:
            raise UsageError(
                f"{', '.join(model)}: only for a MODEL that is named, not for a module",
                code="RX108",
            )
        if cache is None:
            example = example_of(module, kwargs, dynamic_axes, place)
        elif kwargs is not None or dynamic_axes is not None:
            raise UsageError(
                "cache: expected a decoder alone: its inputs and axes are the cache's", code="RX108"
            )
        else:
            example = _with_cache(module, cache, capacity, place)
        kind = type(module if isinstance(module, nn.Module) else example.module)
        source = Source(kind="module", name=f"{kind.__module__}.{kind.__qualname__}")
        held = example if place is None else module
    with unchanged(example.module), evaluated(example.module):
        example = checked(example)
        example = replace(
            example,
            axes=with_given(example.axes, axes),
            roles={**example.roles, **(roles or {})},
            outputs=several("output names", output_names, str) or example.outputs,
        )
        record = export_example(
            example, source, folder, opset=opset, force=force, require_rope=require_rope,
            copy_weights=copy_weights, hash_weights=hash_weights, max_position=max_position,
            requested=_requested(attention, cache, fuse), say=say,
        )  # fmt: skip
    return Export(Artifact(folder, record), held)


@locks("out", "fuse", makes=True)
def fuse(  # noqa: PLR0913  (a user's choices, all but the first two by keyword)
    path: str | Path,
    out: str | Path,
    *,
    axes: Mapping[str, Given] | None = None,
    force: bool = False,
    require_rope: int | None = None,
    max_position: int = 1_049_599,
    attention: AttentionForm = "standard",
    static: bool = False,
    fuse: Fusing = "rope",
    say: Say | None = None,
) -> Fusion:
    """Write an ONNX file again with its rotary applications replaced by ops.

    Parameters
    ----------
    path : path
        An ONNX file of opset 11 or later, its external data beside it.
    out : path
        The output folder.
    axes : dict
        Sizes that dynamic axes are meant for: name to ``(min, opt, max)`` or :class:`Axis`.
    static : bool
        Write axes whose range is one size as that size, and tables that follow from sizes alone
        (a grid of patches) as constants.
    force, require_rope, max_position, attention, fuse, say
        As for :func:`ropeexport.export`.

    Returns
    -------
    Fusion
        With ``found``, ``replaced`` and ``refused``; ``check()`` holds it to the file as it was.

    Raises
    ------
    ModelFileError, ExportError, UsageError, LockedError
        With what was expected, what was found and the next step.

    Examples
    --------
    >>> import numpy as np, onnx, ropeexport
    >>> model = onnx.parser.parse_model('''
    ... <ir_version: 10, opset_import: ["" : 23]>
    ... g (float[batch, 2, length, 8] x, float[length, 8] cos, float[length, 8] sin)
    ... => (float[batch, 2, length, 8] y)
    ... <int64[1] zero = {0}, int64[1] half = {4}, int64[1] end = {8}, int64[1] last = {3}>
    ... {
    ...     a = Slice(x, zero, half, last)
    ...     b = Slice(x, half, end, last)
    ...     c = Neg(b)
    ...     turned = Concat<axis = 3>(c, a)
    ...     left = Mul(x, cos)
    ...     right = Mul(turned, sin)
    ...     y = Add(left, right)
    ... }''')
    >>> onnx.save(model, "plain.onnx")
    >>> made = ropeexport.fuse("plain.onnx", "fused")
    >>> made.found
    1
    """
    require("onnxscript")
    from ropeexport.exporting.fuse_file import fuse_file

    folder = path_of("out", out)
    record, count = fuse_file(
        path_of("path", path), folder, axes=axes, force=force,
        require_rope=whole_if("--require-rope", require_rope),
        max_position=max_position, requested=_requested(attention, None, fuse), static=static,
        say=say,
    )  # fmt: skip
    return Fusion(folder, Artifact(folder, record) if record is not None else None, count)


@locks("path", "build")
def build(  # noqa: PLR0913  (a user's choices, all but the first by keyword)
    path: str | Path,
    *,
    impl: Choice = "auto",
    flavour: str | None = None,
    min_shapes: Shapes | None = None,
    opt_shapes: Shapes | None = None,
    max_shapes: Shapes | None = None,
    plugins: str | Path | None = None,
    embed_plugin: bool = True,
    refit: bool = False,
    strip: bool = False,
    weight_streaming: bool = False,
    module: nn.Module | Example | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
) -> EngineRecord:
    """Build the TensorRT engine of an output folder and record it in the manifest.

    Parameters
    ----------
    path : path
        An output folder of :func:`ropeexport.export` or :func:`ropeexport.fuse`.
    impl : str
        ``auto``, ``plugin``, ``native`` or ``decomposed``: what computes the rope; ``auto`` takes
        the plugin where there is a library, else ``decomposed``.
    flavour : str
        ``tensorrt-rtx`` or ``tensorrt``; by default the one that is installed.
    min_shapes, opt_shapes, max_shapes : dict or str
        Shapes by input, ``{"q": (1, 24, 4096, 128)}`` or ``"q:1x24x4096x128"``; by default those of
        the export's axes.  A decoder with a cache has a second profile, for one token after those
        that are held: what is given is the first's, whose batches and cache the second has.
    plugins : path
        The plugin library, in place of the cached one.
    embed_plugin : bool
        Put the plugin library into the engine.
    refit : bool
        Let the weights be exchanged in the loaded engine, by their names in the state dict.
    strip : bool
        Leave those weights out of the engine's file: whoever loads the folder puts the ONNX file's
        in.  It implies ``refit``.
    weight_streaming : bool
        Let a part of the weights stay in the host's memory, as far as a load is bounded
        (``memory_budget``).
    module : nn.Module or Example
        What the folder was exported from, where you hold it: before the build its weights are
        compared with the file's, of which alone an engine is made.
    force : bool
        Overwrite an existing engine.
    on_progress : callable
        Called with the name of TensorRT's phase and the fraction that is done.
    on_note : callable
        Called with each thing that the user should read.

    Returns
    -------
    EngineRecord
        What was written, as the manifest has it.

    Raises
    ------
    RopeExportError
        The class says which stage failed; nothing is left of an engine that was not finished.

    Examples
    --------
    >>> import ropeexport
    >>> made = ropeexport.export("flux-attention", out="out", heads=2, head_dim=64, length=32)
    >>> engine = ropeexport.build("out", impl="decomposed")
    >>> engine.ropes
    {'ApplyRope_0': 'decomposed'}
    >>> engine.profile.max["q"]
    (2, 2, 64, 64)
    """
    from ropeexport.trt.build import BuildOptions
    from ropeexport.trt.build import build as run

    options = BuildOptions(
        impl=impl,
        flavour=flavour,
        min_shapes=_shapes("--min-shapes", min_shapes),
        opt_shapes=_shapes("--opt-shapes", opt_shapes),
        max_shapes=_shapes("--max-shapes", max_shapes),
        plugin_library=path_if("plugins", plugins),
        embed_plugin=embed_plugin,
        refit=refit,
        strip=strip,
        weight_streaming=weight_streaming,
        force=force,
    )
    artifact = Artifact.read(path_of("path", path))
    if module is not None:
        _check_held(artifact, module)
    return run(artifact, options, on_progress=on_progress, on_note=on_note)


def _requested(attention: AttentionForm, cache: CacheForm | None, fuse: Fusing) -> tuple[str, ...]:
    if attention not in _OPS:
        raise UsageError(
            f"attention: expected {' or '.join(_OPS)}, got {attention!r}", code="RX110"
        )
    if attention == "gqa" and cache is None:
        raise UsageError(
            "attention: gqa is for an export with a cache: add cache='grow' or 'fixed'",
            code="RX108",
        )
    if fuse not in _FUSED:
        raise UsageError(f"fuse: expected {' or '.join(_FUSED)}, got {fuse!r}", code="RX110")
    return _FUSED[fuse] + _OPS[attention]


def _check_held(artifact: Artifact, module: nn.Module | Example) -> None:
    """Raise unless the file has the weights of what the caller holds."""
    require("torch")
    from torch import nn

    from ropeexport.models.example import Example
    from ropeexport.models.sources import check_same_weights

    if not isinstance(module, nn.Module | Example):
        raise UsageError(
            f"module: expected the module that was exported, to see that {artifact.model_path} has "
            f"its weights, got a {type(module).__name__}",
            code="RX107",
        )
    check_same_weights(artifact, module)


def _shapes(what: str, given: Shapes | None) -> dict[str, tuple[int, ...]] | None:
    from ropeexport.axes import parse_shapes

    if given is None:
        return None
    if isinstance(given, str):
        return parse_shapes(given, what)
    return {
        name: tuple(whole(f"{what}: {name}", size) for size in shape)
        for name, shape in given.items()
    }


@dataclass(frozen=True)
class Export:
    """What an export wrote; one rotary application is a q/k pair, or one tensor rotated alone.

    Parameters
    ----------
    artifact : Artifact
        The output folder as one object.
    module : optional
        What it was exported from, held as it is and not copied.
    """

    artifact: Artifact
    module: Module | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        source, axes = (
            self.manifest.source.name,
            ", ".join(
                f"{name} {axis.min} to {axis.max}" for name, axis in self.manifest.axes.items()
            ),
        )
        return (
            f"<export of {source} in {self.folder}: {self.found} rotary applications found, "
            f"{self.replaced} replaced; axes: {axes or 'none'}>"
        )

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.artifact.folder

    @property
    def manifest(self) -> Manifest:
        """What ``manifest.json`` says."""
        return self.artifact.manifest

    @property
    def found(self) -> int:
        """Rotary applications that the module has."""
        return self.manifest.model.recognition.found

    @property
    def replaced(self) -> int:
        """Those that are an op in the file."""
        return self.manifest.model.recognition.replaced

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """Those that are left as they were, each with its reason."""
        return self.manifest.model.recognition.refused

    @property
    def not_judged(self) -> tuple[Refusal, ...]:
        """What looks like one and could not be judged, each with its reason."""
        return self.manifest.model.recognition.not_judged

    def build(self, **options: Any) -> EngineRecord:
        """Build the engine, see :func:`ropeexport.build`."""
        return build(self.folder, **options)

    def check(self, **options: Any) -> Report:
        """Check the folder against the module that it was exported from.

        The options are those of :func:`ropeexport.check`.
        """
        from ropeexport.api.proving import check

        return check(self.folder, **{"module": self.module, **options})


@dataclass(frozen=True)
class Fusion:
    """What ``fuse`` found in a file, and wrote where there was something to replace.

    Parameters
    ----------
    folder : Path
        Where the output folder is, or would be.
    artifact : Artifact or None
        The output folder as one object; None: nothing was replaced, and nothing written.
    count : RopeCount
        Rotary applications that were found, replaced, refused and not judged.
    """

    folder: Path
    artifact: Artifact | None
    count: RopeCount

    @property
    def manifest(self) -> Manifest | None:
        """What ``manifest.json`` says, where it was written."""
        return self.artifact.manifest if self.artifact is not None else None

    @property
    def found(self) -> int:
        """Rotary applications that the file has."""
        return self.count.found

    @property
    def replaced(self) -> int:
        """Those that are an op in the new file."""
        return self.count.replaced

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """Those that are left as they were, each with its reason."""
        return self.count.refused

    @property
    def not_judged(self) -> tuple[Refusal, ...]:
        """What looks like one and could not be judged, each with its reason."""
        return self.count.not_judged

    def build(self, **options: Any) -> EngineRecord:
        """Build the engine, see :func:`ropeexport.build`."""
        return build(self._written(), **options)

    def check(self, **options: Any) -> Report:
        """Check the folder against the file that it is made of, see :func:`ropeexport.check`."""
        from ropeexport.api.proving import check

        return check(self._written(), **options)

    def _written(self) -> Path:
        if self.artifact is None:
            raise UsageError(
                f"{self.folder}: nothing was replaced, so nothing was written", code="RX123"
            )
        return self.folder


class ModelOptions(TypedDict, total=False):
    """What a MODEL that is named may be given: sizes and type, or the config of its class."""

    batch: int
    heads: int
    head_dim: int
    length: int
    dtype: str
    config: str | Path
    trust_remote_code: bool


def named(
    model: str,
    given: ModelOptions,
    cache: CacheForm | None = None,
    capacity: int | None = None,
) -> tuple[Example, Source]:
    """Load a MODEL that is named, with the options that are its own."""
    from ropeexport.models import sources
    from ropeexport.models.builtin_models import BUILTINS, BuiltinOptions
    from ropeexport.models.hub.load import is_library_model

    sizes: dict[str, Any] = {name: x for name, x in given.items() if x is not None}
    config, trusts_code = sizes.pop("config", None), bool(sizes.pop("trust_remote_code", False))
    dtype = sizes.pop("dtype", None) if is_library_model(model) else None
    if sizes and model not in BUILTINS:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in sizes)
        raise UsageError(
            f"{options}: only for the built-in models ({', '.join(BUILTINS)})", code="RX108"
        )
    place = path_if("config", config)
    return sources.load(model, BuiltinOptions(**sizes), place, dtype, cache, capacity, trusts_code)


def _with_cache(
    module: nn.Module | Callable[[], nn.Module] | Example,
    cache: CacheForm,
    capacity: int | None,
    weights: Path | None,
) -> Example:
    """Return a decoder with its cache as an example."""
    from ropeexport.models.example import Example
    from ropeexport.models.hub.decoders import cached_example
    from ropeexport.models.wrappers import unwrapped

    if isinstance(module, Example):
        raise UsageError("cache: expected a decoder of transformers, got an Example", code="RX118")
    require("transformers")
    made = cached_example(unwrapped(_module(module, weights)), cache, capacity)
    return replace(made, weights=weights)


def example_of(
    module: nn.Module | Callable[[], nn.Module] | Example,
    kwargs: Mapping[str, Any] | None,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None,
    weights: Path | None,
) -> Example:
    """Return a module and its arguments as an example; what is an example already, as it is."""
    from ropeexport.models.example import Example
    from ropeexport.models.input_tree import has_tensor

    if isinstance(module, Example):
        if any(x is not None for x in (kwargs, dynamic_axes, weights)):
            raise UsageError(
                "export: an Example has its own kwargs, dynamic_axes and weights", code="RX108"
            )
        return module
    if kwargs is None and (known := _known(module, weights)) is not None:
        return replace(
            known,
            dynamic_axes=known.dynamic_axes if dynamic_axes is None else dynamic_axes,
            weights=weights,
        )
    if not isinstance(kwargs, Mapping):
        raise UsageError(_without_inputs(module, kwargs), code="RX116")
    inputs = {name: value for name, value in kwargs.items() if has_tensor(value)}
    return Example(
        module=_module(module, weights),
        inputs=inputs,
        dynamic_axes=dynamic_axes or {},
        constants={name: value for name, value in kwargs.items() if name not in inputs},
        weights=weights,
    )


def _known(module: nn.Module | Callable[[], nn.Module], weights: Path | None) -> Example | None:
    """Return a library's model with the inputs that are known for its class, if they are."""
    from torch import nn

    from ropeexport.models.hub.load import example_around
    from ropeexport.models.wrappers import unwrapped

    if weights is None and not isinstance(module, nn.Module):
        return None
    return example_around(unwrapped(_module(module, weights)))


def _without_inputs(module: Any, kwargs: Any) -> str:
    """Say what is missing of a module that comes without the arguments of its forward."""
    kind = type(module)
    if isinstance(module, type):
        return f"module: expected an instance, got the class {module.__name__}"
    if isinstance(getattr(module, "components", None), Mapping):  # a pipeline of diffusers
        return f"module: expected one of its parts, pipe.transformer say, got a {kind.__name__}"
    expected = "kwargs: expected the arguments of forward by name, {'x': tensor}"
    if kwargs is not None:
        return f"{expected}, got {type(kwargs).__name__}"
    if kind.__module__.partition(".")[0] not in ("diffusers", "transformers"):
        return f"{expected}, got none"
    return (
        f"{expected}, and dynamic_axes; of a {kind.__name__} no inputs are known that stand for "
        "every size (docs/running.md: record those of its pipeline)"
    )


def _module(module: nn.Module | Callable[[], nn.Module], weights: Path | None) -> nn.Module:
    from torch import nn

    from ropeexport.weights.references import skeleton
    from ropeexport.weights.safetensors_files import find

    if weights is None:
        if not isinstance(module, nn.Module):
            raise UsageError(
                f"module: expected an nn.Module, got {type(module).__name__}", code="RX107"
            )
        return module
    if isinstance(module, nn.Module):
        raise UsageError(
            "module: with weights, expected a callable that makes the module, so that no weight "
            f"takes memory; got a {type(module).__name__} that is made already",
            code="RX107",
        )
    if not find(weights):
        raise UsageError(f"weights: no safetensors file in {weights}", code="RX305")
    return skeleton(module)
