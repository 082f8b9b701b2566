"""Types of the command line's arguments: what they refuse is said as the functions say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ropeexport.given import check_text, path_of


class _Place(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return path_of(_named(param), super().convert(value, param, ctx))


class _Text(click.ParamType[str]):
    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        check_text(_named(param), value)
        return str(value)


def _named(param: click.Parameter | None) -> str:
    """Return an option as it is typed, or an argument by its name."""
    assert param is not None
    return max(param.opts, key=len) if isinstance(param, click.Option) else str(param.name)


PATH = _Place()
FILE = _Place(dir_okay=False)
TEXT = _Text()
