"""Progress as one fraction, and the error that is shown."""

from __future__ import annotations

from types import SimpleNamespace

from ropeexport.trt.reporting import Journal, PhaseTree


def test_nested_phases_fill_one_step_of_their_parent() -> None:
    tree = PhaseTree()
    tree.start("build", None, 4)
    assert tree.fraction() == 0.0
    tree.step("build", 1)
    tree.start("optimise", "build", 2)
    tree.step("optimise", 1)
    assert tree.fraction() == (1 + 1 / 2) / 4
    tree.finish("optimise")
    tree.step("build", 4)
    assert tree.fraction() == 1.0


def test_the_fraction_never_falls() -> None:
    tree = PhaseTree()
    tree.start("build", None, 2)
    tree.start("inner", "build", 1)
    tree.step("inner", 1)
    high = tree.fraction()
    tree.finish("inner")
    tree.start("inner", "build", 5)
    assert tree.fraction() == high == 0.5


def test_no_steps_and_too_many_steps() -> None:
    tree = PhaseTree()
    tree.start("build", None, 0)
    tree.step("build", 9)
    tree.step("unknown", 1)
    assert tree.fraction() == 1.0


class Severities:
    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


def journal() -> Journal:
    return Journal(SimpleNamespace(module=SimpleNamespace(ILogger=_Base)))  # type: ignore[arg-type]


class _Base(Severities):
    pass


def test_the_first_error_is_the_cause_and_source_places_go() -> None:
    found = journal()
    found.logger.log(_Base.WARNING, "a warning")
    found.logger.log(_Base.ERROR, "Error Code 1: ([graph.h:1295: attach] the cause)\n")
    found.logger.log(_Base.ERROR, "a consequence")
    assert found.cause() == "Error Code 1: (the cause)"
    assert found.warnings == ["a warning"]


def test_no_error_and_a_long_one() -> None:
    assert "no reason" in journal().cause()
    found = journal()
    found.logger.log(_Base.ERROR, "x" * 5000)
    assert len(found.cause()) < 700
