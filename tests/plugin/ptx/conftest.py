"""The kernel's PTX and its dispatch, compiled once into build/ptx of the checkout."""

from __future__ import annotations

import pytest
from plugin.ptx.compiled import Build, remove_outdated


@pytest.fixture(scope="session")
def norm_build() -> Build:
    """The kernels that norm first."""
    remove_outdated()
    return Build(normed=True)


@pytest.fixture(scope="session")
def build() -> Build:
    remove_outdated()
    return Build()
