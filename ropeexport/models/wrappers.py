"""Modules around a module, whose own forward takes anything and hands it on.

``torch.compile``, ``DataParallel`` and ``DistributedDataParallel`` compute what the module in them
does, so that is exported, its weights by its own names.  Others (peft's ``PeftModel``) may add to
it: they stay, and are called by the names of the inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, jit, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ropeexport.errors import UsageError

HANDS_ON = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_PARALLEL = (DataParallel.forward, DistributedDataParallel.forward)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module that a wrapper of torch's computes, or a module that is none as it is.

    Raises
    ------
    UsageError
        For what has no Python code any more.
    """
    while (inner := _computed(module)) is not None:
        module = inner
    if any(isinstance(part, jit.ScriptModule) for part in module.modules()):
        raise UsageError(
            "module: expected one of Python code, got one of torch.jit, which torch.export does "
            "not trace: export the module that it was scripted or traced from",
            code="RX107",
        )
    return module


def _computed(module: nn.Module) -> nn.Module | None:
    """Return what a wrapper of torch's computes, and nothing beside it.

    One with hooks, or with a forward of the caller's, computes more, and is a module like any
    other.  torch.compile's class is not loaded for it.
    """
    is_compiled = type(module).__module__.startswith("torch._dynamo.")
    if not is_compiled and getattr(module.forward, "__func__", None) not in _PARALLEL:
        return None
    hooks = module._forward_hooks or module._forward_pre_hooks
    if hooks and is_compiled:  # its copy in float64 would be the compiled one
        raise UsageError(
            "module: expected hooks on the module that is compiled, got one on what "
            "torch.compile returned: register it before torch.compile",
            code="RX107",
        )
    return None if hooks else module._modules["_orig_mod" if is_compiled else "module"]


def argument_names(module: nn.Module) -> list[str]:
    """Return the names of forward's arguments: the module's own, then those of the one inside."""
    parameters = inspect.signature(module.forward).parameters
    own = [name for name, x in parameters.items() if x.kind not in HANDS_ON]
    if len(own) == len(parameters):
        return own
    inner = _inner(module)
    further = argument_names(inner) if inner is not None else []
    return own + [name for name in further if name not in own]


def _inner(module: Any) -> nn.Module | None:
    """Return what a wrapper hands its arguments to."""
    getter = getattr(module, "get_base_model", None)
    candidates = [getter() if callable(getter) else None]
    candidates += [getattr(module, name, None) for name in ("base_model", "_orig_mod", "module")]
    children = list(module.children())
    candidates += children if len(children) == 1 else []
    return next((x for x in candidates if isinstance(x, nn.Module) and x is not module), None)


@contextmanager
def named_forward(module: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Have a forward that takes anything say the names of what it is given, for a while.

    torch.export binds inputs to the names of a signature.
    """
    forward, parameters = module.forward, inspect.signature(module.forward).parameters
    if all(x.kind not in HANDS_ON for x in parameters.values()):
        yield
        return

    def named(**given: Any) -> Any:
        return forward(**given)

    named.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    )
    former = module.__dict__.get("forward")
    module.forward = named
    try:
        yield
    finally:
        if former is None:
            del module.__dict__["forward"]
        else:
            module.forward = former


def check_named(module: nn.Module, names: Iterable[str]) -> None:
    """Raise unless forward takes arguments of these names."""
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(module.forward).parameters
    if any(x.kind is inspect.Parameter.VAR_KEYWORD for x in parameters.values()):
        return
    unknown = [name for name in names if name not in parameters]
    if unknown:
        raise UsageError(
            f"inputs: {unknown[0]!r}: {type(module).__name__}.forward takes no argument of that "
            f"name (it takes {', '.join(map(str, parameters.values())) or 'none'})",
            code="RX116",
        )


@contextmanager
def ordinary_weights(module: nn.Module) -> Iterator[None]:
    """Have weights that were made under ``torch.inference_mode`` as ordinary ones for a while.

    torch.export refuses such tensors; others of the same memory it takes.
    """
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    for part in module.modules():
        stores: Any = (part._parameters, part._buffers)
        for store in stores:
            for name, x in list(store.items()):
                if x is not None and x.is_inference():
                    replaced.append((store, name, x))
                    store[name] = _ordinary(x)
    try:
        yield
    finally:
        for store, name, x in replaced:
            store[name] = x


def _ordinary(x: Tensor) -> Tensor:
    """Return a tensor of the same memory."""
    plain = torch.empty(0, dtype=x.dtype, device=x.device)
    plain.set_(x.untyped_storage(), x.storage_offset(), x.shape, x.stride())
    is_parameter = isinstance(x, nn.Parameter)
    return nn.Parameter(plain, requires_grad=False) if is_parameter else plain
