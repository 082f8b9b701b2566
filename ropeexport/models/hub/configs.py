"""Configs of transformers, and the code that some bring along, which runs only where it is allowed.

Where transformers has classes of its own for a config, those are taken, whatever code lies beside
it; and no config that is returned names code, but for one that was allowed to run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ropeexport.errors import UntrustedError, UsageError, first_line
from ropeexport.reading import read_json

CONFIG_NAME = "config.json"
OPTION = "--trust-remote-code"
_MOST_LAYERS = 10_000  # the deepest models have some hundreds
_LAYERS = re.compile(r"layers$|^n_layers?$|^depth$")


def read_config(path: Path) -> dict[str, Any]:
    """Return the values of a config: a file, or the folder that holds it."""
    path = path / CONFIG_NAME if path.is_dir() else path
    return read_json(path)


def require_few_layers(place: Path) -> None:
    """Raise :class:`UsageError` for layers that no model has so many of, before any is made."""
    parts = []
    with suppress(UsageError):  # of what is no config; reading it as the library does says it
        parts.append(read_config(place))
    while parts:
        for key, value in parts.pop().items():
            if isinstance(value, dict):
                parts.append(value)
            elif _LAYERS.search(key) and isinstance(value, int) and value > _MOST_LAYERS:
                raise UsageError(
                    f"{place}: expected at most {_MOST_LAYERS:,} layers, got {key} of {value:,}; "
                    "mend the config",
                    code="RX129",
                )


def code_of(path: Path, *, is_decoder: bool = False) -> str:
    """Return the class of a config's own code that its model needs, ``modeling_new.NewModel``.

    Empty where transformers has a class of its own, as it has for many configs that name code.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    try:
        values = read_config(path)
    except UsageError:  # which reading it as transformers does says, and runs nothing
        return ""
    named, kind = values.get("auto_map"), values.get("model_type")
    if not isinstance(named, Mapping):
        return ""
    auto = "AutoModelForCausalLM" if is_decoder else "AutoModel"
    models = MODEL_FOR_CAUSAL_LM_MAPPING if is_decoder else MODEL_MAPPING
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return _text(named.get(auto) or named.get("AutoConfig"))
    return "" if CONFIG_MAPPING[kind] in models else _text(named.get(auto))


def load_config(path: Path, code: str, trusts_code: bool) -> Any:
    """Return a config of transformers.

    Parameters
    ----------
    path : Path
        The file, or its folder.
    code : str
        What it needs of its own code, see :func:`code_of`.
    trusts_code : bool
        Whether that may run.

    Raises
    ------
    UntrustedError
        For code that may not run, and for kernels that it would have downloaded and run.
    UsageError
        For what transformers cannot read.
    """
    from transformers import AutoConfig

    if code and not trusts_code:
        raise UntrustedError(
            f"{path}: its model is the code of {_file_of(code)}, which the config names (auto_map) "
            "and transformers has no class for: code of whoever made the folder.  Read it, and add "
            f"{OPTION} (trust_remote_code=True) to run it",
            code="RX801",
        )
    # code is looked for beside a folder's config
    place = path.parent if path.name == CONFIG_NAME else path
    try:
        config = AutoConfig.from_pretrained(
            place, trust_remote_code=bool(code), local_files_only=True
        )
    except (OSError, ValueError) as error:
        own = "" if code else code_of(path)
        alone = f"; code of its own (auto_map: {own}) is for transformers:CONFIG alone"
        raise UsageError(
            f"transformers:{path}: expected a config.json of a model that transformers knows, or "
            f"its folder: {first_line(error)}{alone if own else ''}",
            code="RX103",
        ) from error
    for each in with_parts(config):
        _refuse_kernels(path, each)
        if not code and hasattr(each, "auto_map"):
            del each.auto_map  # a part's would be asked about on a terminal
    return config


def with_parts(config: Any) -> Iterator[Any]:
    """Yield a config, and those of its parts."""
    yield config
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config, name, None)
        if part is not None:
            yield from with_parts(part)


def _refuse_kernels(path: Path, config: Any) -> None:
    """Raise for attention of a repository's: transformers would fetch and run its code."""
    kernels = getattr(config, "_attn_implementation", None)
    if "/" in str(kernels):
        raise UntrustedError(
            f"{path}: its attention is {kernels}, code of a repository that would be downloaded "
            "and run: take attn_implementation out of the config",
            code="RX802",
        )


def _file_of(code: str) -> str:
    repository, _, name = code.rpartition("--")
    file = f"{name.rpartition('.')[0].replace('.', '/')}.py"
    if not repository:
        return file
    return f"{file} of the repository {repository} (transformers would download it)"


def _text(reference: Any) -> str:
    return str(reference) if reference else ""
