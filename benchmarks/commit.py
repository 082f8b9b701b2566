"""When a result was measured, and of which sources: its date and the commit of the checkout."""

from __future__ import annotations

import subprocess
from datetime import date
from pathlib import Path
from typing import Any

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
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
