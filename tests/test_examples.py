"""The examples of public functions: each has some, and they run as they are written."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest

import ropeexport

FUNCTIONS = [name for name in ropeexport.__all__ if inspect.isfunction(getattr(ropeexport, name))]


def examples(name: str) -> list[doctest.DocTest]:
    function = getattr(ropeexport, name)
    finder = doctest.DocTestFinder(recurse=False)
    return [found for found in finder.find(function, name, globs={}) if found.examples]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_examples_run(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    assert "Examples\n" in (getattr(ropeexport, name).__doc__ or ""), "no section of examples"
    if name == "build":
        pytest.importorskip("tensorrt_rtx")
    monkeypatch.chdir(tmp_path)
    found = examples(name)
    assert found
    for each in found:
        result = doctest.DocTestRunner(verbose=False).run(each)
        assert result.failed == 0, capsys.readouterr().out
        assert result.attempted >= 2
