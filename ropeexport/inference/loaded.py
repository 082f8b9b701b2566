"""A folder that is loaded: called like its module, in whichever runtime."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ropeexport.artifact import Artifact
from ropeexport.axes import axis_sizes, parse_shapes, shape_at
from ropeexport.dtypes import numpy_type
from ropeexport.errors import UsageError
from ropeexport.given import WORD, check_memory, whole
from ropeexport.grids import ROLES, check_grid
from ropeexport.inference.arguments import Arguments
from ropeexport.inference.choosing import Chosen
from ropeexport.inference.decoding import Options, cache_of, generated, streamed
from ropeexport.inference.inputs import check_rank, checked_sizes, taken
from ropeexport.inference.memory import memory_of, shape_of
from ropeexport.machine import require
from ropeexport.manifest import Axis
from ropeexport.parity.cases import Case, elements_of
from ropeexport.parity.inputs import make_inputs
from ropeexport.runners.runner import Array, Runner

if TYPE_CHECKING:
    from ropeexport.inference.module import ExportedModule

Feeds = Mapping[str, Any]
Sizes = dict[str, int]
Out = Any  # a tensor, a sequence of tensors in the outputs' order, or tensors by name

_MOST_SHAPES = 4096  # whose check is remembered


class LoadedModel:
    """An exported folder in a runtime, see :func:`ropeexport.load`.

    Calls from several threads are safe; where the runtime takes one at a time, they wait for each
    other.

    Attributes
    ----------
    inputs, outputs : tuple of TensorSpec
        Name, type and shape of each, dynamic axes by name.
    axes : dict of str to Axis
        The sizes that each dynamic axis may have.
    dtype : str
        fp32, fp16 or bf16: the type of the data that is rotated.
    runtime, provider, device : str
        What runs it and where: ``onnxruntime``, ``CPUExecutionProvider``, ``cpu``.
    why : str
        Why that runtime, and what spoke against those before it.
    """

    def __init__(self, artifact: Artifact, chosen: Chosen, stack: ExitStack) -> None:
        manifest, runtime = artifact.manifest, chosen.choice.runtime
        self.artifact = artifact
        self.inputs, self.outputs = manifest.model.inputs, manifest.model.outputs
        self.axes: dict[str, Axis] = dict(manifest.axes)
        self.dtype = manifest.model.dtype
        self.runtime = runtime.name
        self.provider = chosen.runner.facts.provider
        self.device = chosen.runner.facts.device or chosen.choice.device
        self.why = chosen.why
        self.arguments = Arguments(manifest)
        self._runner = chosen.runner
        self._stack = stack
        self._turn: AbstractContextManager[object] = nullcontext() if runtime.reentrant else Lock()
        self._types = [(spec.name, numpy_type(spec.dtype), spec.dtype) for spec in self.inputs]
        self._cache = manifest.cache
        self._grids = [spec.name for spec in self.inputs if spec.role in ROLES]
        self._known: dict[tuple[Any, ...], Sizes] = {}
        self._is_closed = False

    def __repr__(self) -> str:
        where = ", ".join(filter(None, (self.runtime, self.provider, self.device)))
        return f"<ropeexport {self.artifact.folder} in {where}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the model go, and its memory; a call after that is an error."""
        self._is_closed = True
        self._stack.close()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model as its module: arguments in order or by name.

        Parameters
        ----------
        *args, **kwargs
            What ``forward`` takes: arrays, or torch's tensors, or trees of them as at the export.
            An argument that was fixed then may be given with the same value.
        out : optional
            As for :meth:`run`; of a module that has an argument of that name, it is that.

        Returns
        -------
        What ``forward`` returned at the export, of tensors where tensors came in, else of arrays;
        in place of an output class of a library, a dict of its fields.

        Raises
        ------
        UsageError
            For an argument, a type or a size that the export is not for.
        """
        out = None if "out" in self.arguments.roots else kwargs.pop("out", None)
        return self.arguments.result(self.run(self.arguments.bound(args, kwargs), out))

    def run(self, inputs: Feeds, out: Out = None) -> dict[str, Any]:
        """Run the model on the inputs of the file, by their names there.

        Parameters
        ----------
        inputs : mapping of str to array
            NumPy's arrays (bfloat16 is ``ml_dtypes.bfloat16``), torch's tensors on the model's
            device, or whatever else speaks DLPack.
        out : optional
            Memory for the outputs, C-contiguous and of their types and shapes: by name, in their
            order, or the only one's.

        Returns
        -------
        dict of str to array
            The outputs by name, torch's tensors where an input is one or lies on a GPU.  On a GPU
            they are ready in the order of torch's current stream.
        """
        torch = sys.modules.get("torch")
        if not isinstance(inputs, Mapping):
            raise UsageError(
                f"inputs: expected arrays by name, got {type(inputs).__name__}", code="RX603"
            )
        feeds = self._ordered(inputs)
        if any(type(x) is not np.ndarray for x in feeds.values()):
            feeds = {name: taken(x, name) for name, x in feeds.items()}
        if torch is not None and any(isinstance(x, torch.Tensor) for x in feeds.values()):
            return self._run_tensors(feeds, out)
        for name, expected, dtype in self._types:
            if feeds[name].dtype != expected:
                raise UsageError(f"{name}: expected {dtype}, got {feeds[name].dtype}", code="RX604")
        sizes = self._sizes(feeds)
        into = memory_of(out, self.outputs, sizes, feeds, self.device) if out is not None else None
        with self._turn:
            return self._entered().run(feeds, into)

    def generate(self, input_ids: Any, max_new_tokens: int, **options: Any) -> Any:
        """Continue texts with a decoder that was exported with its cache.

        Each text of a batch is continued as it would be alone, whatever padding it has.  All sizes
        are checked before anything runs.

        Parameters
        ----------
        input_ids : array, tensor, or lists
            ``(batch, length)`` tokens; lists may be of several lengths.
        max_new_tokens : int
            How many tokens a text may get.
        eos_token_id : int or sequence of int, optional
            What ends a text; by default the model's own, ``()`` for nothing.
        attention_mask : array or tensor, optional
            0 for padding, on the left or on the right.  Without it, tokens that are the one of
            padding are padding, unless that ends a text too.
        pad_token_id : int, optional
            What follows a text that has ended; by default the model's own, else what ends a text.
        do_sample : bool
            Draw the tokens, by NumPy's ``default_rng(seed)``, a number for each text and step; else
            the likeliest is taken.
        temperature, top_k, top_p : optional
            What is drawn from, in this order, see
            :class:`ropeexport.inference.sampling.Sampling`; by default all tokens.
        seed : int
            The same one gives the same texts.

        Returns
        -------
        array or tensor
            ``(batch, length + new)``: what was given, and what follows.

        Raises
        ------
        UsageError
            For an export without a cache, for more tokens than it holds, and for an option or a
            size that it is not for.

        Examples
        --------
        >>> import ropeexport, torch, transformers
        >>> config = transformers.LlamaConfig(
        ...     hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        ...     vocab_size=64, max_position_embeddings=64)
        >>> decoder = transformers.LlamaForCausalLM(config).eval()
        >>> made = ropeexport.export(decoder, out="out", cache="fixed", capacity=32)
        >>> model = ropeexport.load("out", device="cpu")
        >>> model.generate([[5, 6, 7], [8, 9]], max_new_tokens=4, eos_token_id=()).shape
        (2, 7)
        >>> tokens = torch.tensor([[5, 6, 7]])
        >>> found = model.generate(tokens, max_new_tokens=4)
        >>> torch.equal(found, decoder.generate(tokens, max_new_tokens=4, do_sample=False))
        True
        >>> drawn = model.stream(tokens, max_new_tokens=4, do_sample=True, top_k=9, seed=1)
        >>> next(drawn).shape
        torch.Size([1])
        """
        return generated(self, input_ids, Options.of(max_new_tokens=max_new_tokens, **options))

    def stream(self, input_ids: Any, max_new_tokens: int, **options: Any) -> Iterator[Any]:
        """Return an iterator over the new tokens of a batch, ``(batch,)`` for each step.

        Parameters are those of :meth:`generate`.  Its cache goes with the iterator: when that is
        at its end, closed or let go.
        """
        return streamed(self, input_ids, Options.of(max_new_tokens=max_new_tokens, **options))

    def steps(self, batch: int) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """Return what runs new tokens, call after call, with a cache of its own in between.

        It takes the inputs that are not the cache's, as arrays whose sizes the caller has checked,
        and returns the outputs that are not.
        """
        cache = cache_of(self)
        names = {past for past, _ in cache.pairs}
        pasts = [spec for spec in self.inputs if spec.name in names]
        with self._turn:
            kept = self._entered().kept_cache(cache, pasts, batch)

        def step(inputs: Mapping[str, Array]) -> dict[str, Array]:
            with self._turn:
                self._entered()
                return kept.step(inputs)

        return step

    def warmup(self, shapes: Any = None) -> None:
        """Run the model once at each of some sizes, so that the first real call is quick.

        Parameters
        ----------
        shapes : optional
            Sizes of dynamic axes, ``{"batch": 1, "length": 4096}``; or shapes of inputs,
            ``{"q": (1, 24, 4096, 128)}`` or ``"q:1x24x4096x128"``; or a list of such.  Axes that
            are not named have their usual size, which is all that is run without ``shapes``.
        """
        for each in shapes if isinstance(shapes, list | tuple) else [shapes]:
            self.run(self.random_inputs(each))

    def update(self, weights: Mapping[str, Any] | str | Path) -> None:
        """Exchange weights: a LoRA merged or taken out, a checkpoint of the same architecture.

        Those that are not given keep the values that they have.  Calls under way end on the old
        ones; where it fails, all calls go on with them, but for an engine that TensorRT has
        exchanged by half: that one has to be loaded again.

        Parameters
        ----------
        weights : mapping, or path
            Arrays or torch's tensors by the names of the module's state dict, all or some; or a
            safetensors file, or a folder of such.

        Raises
        ------
        UsageError
            For a name that the file does not have, another shape, or a type that cannot hold it.
        MissingError
            Where the runtime, or the engine as it was built, cannot exchange them.

        Examples
        --------
        >>> import torch, ropeexport
        >>> linear = torch.nn.Linear(4, 2)
        >>> made = ropeexport.export(linear, {"input": torch.zeros(1, 4)}, "out")
        >>> model = ropeexport.load("out", device="cpu")
        >>> with torch.no_grad():
        ...     linear.weight *= 2
        >>> model.update(linear.state_dict())
        >>> x = torch.ones(1, 4)
        >>> torch.allclose(model(x), linear(x))
        True
        """
        from ropeexport.weights.updating import new_values

        values = new_values(weights, self.artifact)
        with self._turn:
            self._entered().update(values)

    def random_inputs(self, shapes: Any = None, seed: int = 0) -> dict[str, Array]:
        """Return inputs that the model takes, drawn by what each is for; shapes as above."""
        seed = whole("seed", seed, 0, WORD)
        given = (
            parse_shapes(shapes)
            if isinstance(shapes, str)
            else _counted({} if shapes is None else shapes)
        )
        sizes = {name: axis.opt for name, axis in self.axes.items()}
        named = {name: x for name, x in given.items() if isinstance(x, int)}
        by_input = {name: tuple(x) for name, x in given.items() if not isinstance(x, int)}
        specs = {spec.name: spec for spec in self.inputs}
        unknown = [n for n in named if n not in sizes] + [n for n in by_input if n not in specs]
        if unknown:
            raise UsageError(
                f"shapes: {unknown[0]!r}: expected an axis ({', '.join(sizes) or 'it has none'}) "
                f"or an input ({', '.join(specs)})",
                code="RX114",
            )
        for name, shape in by_input.items():
            check_rank(specs[name], shape)
        sizes |= axis_sizes([specs[name] for name in by_input], by_input) | named
        shapes = {spec.name: shape_at(spec, sizes) for spec in self.inputs}
        checked_sizes(
            self.inputs, self.axes, shapes, self._cache
        )  # before anything of that size is drawn
        check_memory("shapes", elements_of(self.inputs, sizes))
        case = Case("random", "flux positions", sizes, seed)
        return make_inputs(case, self.inputs, self.artifact.manifest.model.max_position)

    def as_module(self, like: Any = None, adapt: Any = None) -> ExportedModule:
        """Return the model as an ``nn.Module``, for the place of the one that was exported.

        See :class:`ropeexport.inference.module.ExportedModule`.
        """
        require("torch")
        from ropeexport.inference.module import ExportedModule

        transformers = sys.modules.get("transformers")
        if transformers is not None and isinstance(like, transformers.GenerationMixin):
            from ropeexport.inference.generation import GeneratingModule

            return GeneratingModule(self, like, adapt)
        return ExportedModule(self, like, adapt)

    def _entered(self) -> Runner:
        if self._is_closed:
            raise UsageError(f"{self.artifact.folder}: closed; load it again", code="RX515")
        return self._runner

    def _ordered(self, inputs: Feeds) -> dict[str, Any]:
        """Return the inputs of the file in its order."""
        try:
            feeds = {spec.name: inputs[spec.name] for spec in self.inputs}
        except KeyError:
            missing = [spec.name for spec in self.inputs if spec.name not in inputs]
            raise UsageError(
                f"{missing[0]}: expected as an input, got {', '.join(inputs) or 'none'}",
                code="RX605",
            ) from None
        if len(feeds) != len(inputs):
            unknown = next(name for name in inputs if name not in feeds)
            raise UsageError(
                f"{unknown}: no input of the file, which has {', '.join(feeds)}", code="RX605"
            )
        return feeds

    def _run_tensors(self, feeds: Feeds, out: Out) -> dict[str, Any]:
        """Run on torch's tensors; arrays among them become tensors on the model's device."""
        import torch

        from ropeexport.runners.torch_arrays import tensor_from

        tensors = {}
        for name, expected, dtype in self._types:
            x = feeds[name]
            is_tensor = isinstance(x, torch.Tensor)
            if x.dtype != (getattr(torch, dtype) if is_tensor else expected):
                got = str(x.dtype).removeprefix("torch.")
                raise UsageError(f"{name}: expected {dtype}, got {got}", code="RX604")
            if not is_tensor:
                x = tensor_from(x).to(self.device)
            if x.layout is not torch.strided or x.is_nested:
                raise UsageError(
                    f"{name}: expected a dense tensor, got a sparse or a nested one", code="RX603"
                )
            if x.device.type != self.device:
                raise UsageError(
                    f"{name}: expected on {self.device}, got on {x.device}", code="RX603"
                )
            if x.requires_grad and torch.is_grad_enabled():
                raise UsageError(
                    f"{name}: needs a gradient, which an exported model does not pass on: call it "
                    "under torch.no_grad()",
                    code="RX603",
                )
            tensors[name] = x.resolve_neg()  # memory as it is read
        sizes = self._sizes(tensors)
        into = (
            memory_of(out, self.outputs, sizes, tensors, self.device) if out is not None else None
        )
        if into is None and self.device == "cuda":
            into = self._new_outputs(sizes)
        with self._turn:
            return self._entered().run_tensors(tensors, into)

    def _new_outputs(self, sizes: Sizes) -> dict[str, Any] | None:
        """Return memory on the GPU for the outputs; None where a shape is not known beforehand."""
        import torch

        made = {}
        for spec in self.outputs:
            shape = shape_of(spec, sizes)
            if shape is None:
                return None
            dtype = getattr(torch, spec.dtype)
            made[spec.name] = torch.empty(shape, dtype=dtype, device=self.device)
        return made

    def _sizes(self, feeds: Feeds) -> Sizes:
        """Return the size of each dynamic axis, held to what the export is for."""
        key = tuple(x.shape for x in feeds.values())
        sizes = self._known.get(key)
        if sizes is None:
            shapes = dict(zip(feeds, key, strict=True))
            sizes = checked_sizes(self.inputs, self.axes, shapes, self._cache)
            if len(self._known) < _MOST_SHAPES:
                self._known[key] = sizes
        for name in self._grids:
            grid: Any = feeds[name]
            check_grid(self.inputs, sizes, name, grid.cpu() if hasattr(grid, "cpu") else grid)
        return sizes


def _counted(shapes: Any) -> dict[str, int | tuple[int, ...]]:
    """Return sizes of axes and shapes of inputs as the caller has them, each number checked."""
    if not isinstance(shapes, Mapping):
        raise UsageError(
            f"shapes: expected {{'length': 128}} or {{'q': (1, 24, 128, 64)}}, got {shapes!r}",
            code="RX110",
        )
    return {
        name: tuple(whole(f"shapes: {name}", size) for size in given)
        if isinstance(given, Sequence)
        else whole(f"shapes: {name}", given)
        for name, given in shapes.items()
    }
