"""When a result was measured, and of which sources: its date and the commit of the checkout."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

from ropeexport.trt.toolchain import output_of

ROOT = Path(__file__).parents[1]


def measured(*folders: str, root: Path = ROOT) -> dict[str, Any]:
    """Return the date, the commit, and whether folders of the checkout differ from it.

    Parameters
    ----------
    *folders : str
        What decides the result besides the package itself, relative to the checkout.
    root : Path
        The checkout; without git in it, ``commit`` and ``changed`` are None.
    """
    commit = git(root, "rev-parse", "HEAD")
    changed = bool(git(root, "status", "--porcelain", "ropeexport", *folders)) if commit else None
    return {"date": date.today().isoformat(), "commit": commit or None, "changed": changed}


def git(root: Path, *arguments: str) -> str:
    """Return what git says of a checkout; nothing where it cannot."""
    return output_of("git", "-C", str(root), *arguments)
