"""Which runtime a folder is loaded in: the one that is named, or the best that this machine has."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ropeexport.artifact import Artifact
from ropeexport.dtypes import is_float
from ropeexport.errors import MissingError, UsageError
from ropeexport.machine import find_gpu
from ropeexport.runners import registry
from ropeexport.runners.registry import Choice, Device, Opening, Provider
from ropeexport.runners.runner import Runner

AUTO = "auto"
GivenProvider = str | tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Wish:
    """What a caller asks of the runtime, see :func:`ropeexport.load`."""

    runtime: str = AUTO
    device: Device | None = None
    providers: tuple[GivenProvider, ...] = ()
    plugin: Path | None = None
    threads: int = 0
    memory_budget: int | None = None
    cuda_graphs: bool = False


@dataclass(frozen=True)
class Chosen:
    """A runner that was entered, what it is, and why it was taken."""

    choice: Choice
    runner: Runner
    why: str


def choose(artifact: Artifact, wish: Wish, stack: ExitStack) -> Chosen:
    """Enter the first of the runtimes that fit a wish and can run here; ``stack`` closes it.

    Raises
    ------
    MissingError
        Where none can, with the reason of each.
    RopeExportError
        For an engine or a file that is damaged: no other runtime hides that.
    """
    refused: list[str] = []
    candidates = _candidates(artifact, wish)
    for choice in candidates:
        try:
            runner = stack.enter_context(_opened(choice, artifact, wish))
        except MissingError as error:
            is_named = len(candidates) == 1 and wish.runtime != AUTO
            refused.append(str(error) if is_named else f"{choice.name}: {error}")
        else:
            asked = wish.runtime != AUTO or wish.providers
            why = "as asked" if asked else "the best that this machine has"
            return Chosen(choice, runner, "; ".join([why, *refused]))
    raise MissingError(
        f"{artifact.folder}: no runtime can load it here: {'; '.join(refused)}", code="RX501"
    )


def _candidates(artifact: Artifact, wish: Wish) -> list[Choice]:
    """Return what fits a wish, the best first: an engine, then a GPU, then the CPU."""
    if wish.providers:
        return [_of_provider(wish)]
    if wish.runtime == AUTO:
        every = [each for runtime in registry.chosen() for each in registry.own_choices(runtime)]
        has_engine = artifact.manifest.engine is not None
        found = [each for each in every if has_engine or each.runtime.runs != "engine"]
    else:
        named = registry.choice(wish.runtime)
        found = [named] if named.provider else list(registry.own_choices(named.runtime))
    fitting = [each for each in found if wish.device in (None, each.device)]
    if not fitting:
        where = " or ".join(dict.fromkeys(each.device for each in found))
        raise UsageError(
            f"device: expected {where} for {wish.runtime}, got {wish.device}", code="RX514"
        )
    return sorted(fitting, key=lambda each: (each.runtime.runs != "engine", each.device != "cuda"))


def _of_provider(wish: Wish) -> Choice:
    """Return the choice of the first provider that is named; onnxruntime has its own CPU beside."""
    named = "onnxruntime" if wish.runtime == AUTO else wish.runtime
    runtime = registry.choice(named).runtime
    if not runtime.providers or ":" in named:
        raise UsageError(
            f"providers: for onnxruntime alone, got runtime={wish.runtime!r}", code="RX108"
        )
    first, *rest = wish.providers
    name, options = (first, {}) if isinstance(first, str) else first
    further = [each for each in rest if each not in ("cpu", registry.CPU.executes)]
    if further:
        raise UsageError(
            "providers: expected one, and CPUExecutionProvider after it, got "
            f"{list(wish.providers)}",
            code="RX514",
        )
    known = {name: each for each in runtime.providers for name in (each.name, each.executes)}
    provider = known.get(name) or Provider(name, name, "cpu")
    given = tuple((key, str(value)) for key, value in options.items())
    return Choice(runtime, replace(provider, options=provider.options + given))


def _opened(choice: Choice, artifact: Artifact, wish: Wish) -> Runner:
    runtime = choice.runtime
    specs = (*artifact.manifest.model.inputs, *artifact.manifest.model.outputs)
    runtime.require_dtypes(list(dict.fromkeys(s.dtype for s in specs if is_float(s.dtype))))
    if runtime.runs == "engine":
        check_engine(artifact)
    if choice.device == "cuda" and find_gpu() is None:
        raise MissingError("no NVIDIA GPU", code="RX903")
    runtime.require(wish.device, choice.provider)
    if wish.plugin is not None and runtime.runs != "engine":
        raise UsageError(f"plugin: for an engine of TensorRT, not for {choice.name}", code="RX108")
    if wish.cuda_graphs and not runtime.cuda_graphs:
        raise MissingError(
            "it records no CUDA graphs here: load an engine of TensorRT, or without", code="RX513"
        )
    opening = Opening(
        artifact if runtime.runs == "engine" else artifact.file,
        choice.provider,
        wish.device,
        threads=wish.threads,
        timed=True,
        plugin=wish.plugin,
        cuda_graphs=wish.cuda_graphs,
        memory_budget=wish.memory_budget,
    )
    return runtime.open(opening)


def check_engine(artifact: Artifact) -> None:
    """Raise unless a folder has an engine, of the model that its manifest has now."""
    folder, engine = artifact.folder, artifact.manifest.engine
    if engine is None:
        raise MissingError(f"no engine was built; run: ropeexport build {folder}", code="RX502")
    if engine.model_sha256 != artifact.manifest.model.sha256:
        raise MissingError(
            f"{engine.file} was built from another export; run: ropeexport build {folder} --force",
            code="RX506",
        )
