"""The compiled PTX of every variant against eager torch, bit for bit; see ``interpreter.py``."""

from __future__ import annotations

from collections import Counter

import pytest
from plugin.ptx.cases import policies, sweep
from plugin.ptx.trial import Trial


@pytest.mark.parametrize("case", [*sweep()], ids=str)
def test_equals_eager(build, case) -> None:
    assert Trial(case).run(build) == []


def test_every_kernel_of_the_plugin_is_run(build) -> None:
    runs: Counter[str] = Counter()
    for case in sweep():
        runs.update({launch.kernel for launch in Trial(case).launches(build)})
    assert set(runs) == set(build.kernels)
    assert len(runs) == 3 * len([*policies()])  # by 16 bytes, by two elements, by one
    assert min(runs.values()) >= 5


def test_the_kernel_is_the_forms_own(build) -> None:
    """Another one may compute the same: a partial one of all of a row, only slower."""
    for case in policies():
        (launch,) = Trial(case).launches(build)
        pairing = "4Half" if case.form.halves else "11Interleaved"
        coefficients = "6Tables" if case.form.tables else "8Matrices"
        flags = f"Lb{case.per_head:d}ELb{case.form.partial:d}E"
        assert "".join(f"NS_{name}E" for name in (pairing, coefficients)) + flags in launch.kernel


def test_the_cuts_are_cut(build) -> None:
    """The cases that want several launches, or few heads a thread, get them."""

    def blocks(name: str) -> list[int]:
        wanted = (case for case in sweep() if case.name == name)
        return [launch.blocks for launch in Trial(next(wanted)).launches(build)]

    assert len(blocks("dense")) == 1
    assert len(blocks("several launches")) > 2
    assert len(blocks("a launch a position")) == 2 * 3
    assert blocks("few heads a thread") > blocks("three heads a thread") > blocks("dense")


def test_no_case_has_the_name_of_another() -> None:
    names = Counter(map(str, sweep()))
    assert [name for name, count in names.items() if count > 1] == []
