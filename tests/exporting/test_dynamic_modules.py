"""Every module whose sizes are not free ends in a right file, or in a message that leads on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dynamic_modules as written
import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import ropeexport
from ropeexport.cli.main import cli
from ropeexport.errors import AxisRangeError, ExportError
from ropeexport.testing import assert_parity

Inputs = dict[str, Tensor]
LENGTH = {"x": {0: "batch", 1: "length"}}
PAST = {**LENGTH, "past": {0: "batch", 1: "past"}}
QK = {"q": {0: "batch", 1: "q_length"}, "k": {0: "batch", 1: "k_length"}}
JOINED = {
    "txt": {0: "batch", 1: "text"}, "img": {0: "batch", 1: "image"}, "pe": {0: "batch", 1: "total"},
}  # fmt: skip
TWICE = {"x": {0: "batch", 1: "length"}, "cond": {0: "twice", 1: "length"}}


def x(batch: int, length: int) -> Inputs:
    return {"x": written.randn(batch, length, 4)}


def past(batch: int, length: int, before: int) -> Inputs:
    return {**x(batch, length), "past": written.randn(batch, before, 4)}


def qk(batch: int, length: int, keys: int | None = None) -> Inputs:
    return {"q": written.randn(batch, length, 4), "k": written.randn(batch, keys or length, 4)}


def joined(batch: int, text: int, image: int) -> Inputs:
    sizes = {"txt": text, "img": image, "pe": text + image}
    return {name: written.randn(batch, size, 4) for name, size in sizes.items()}


def twice(batch: int, length: int) -> Inputs:
    return {**x(batch, length), "cond": written.randn(2 * batch, length, 4)}


def frames(batch: int, length: int, count: int) -> Inputs:
    return {**x(batch, length), "frames": written.randn(count, 4)}


def function(compute: Callable[[Tensor], Tensor]) -> nn.Module:
    return written.Function(compute)


def pooled(x: Tensor) -> Tensor:
    return nn.functional.avg_pool1d(x.transpose(1, 2), 2).transpose(1, 2)


def beyond_32(x: Tensor) -> Tensor:
    return x * torch.arange(256)[: max(x.shape[1], 32)][: x.shape[1], None]


def thirds(x: Tensor) -> Tensor:
    return torch.cat(x.chunk(3, 1)[::-1], 1)


def first_three(x: Tensor) -> Tensor:
    return torch.cat(torch.split(x, [3, x.shape[1] - 3], 1)[::-1], 1)


# module, example, dynamic axes, other inputs, relations that are found, ranges that are cut
RIGHT: dict[str, tuple[nn.Module, Inputs, Any, list[Inputs], dict[str, str], dict[str, Any]]] = {
    "table": (written.Table(), x(2, 16), LENGTH, [x(1, 128), x(3, 1)], {}, {"length": (1, 128)}),
    "batch of one": (
        written.Table(), x(1, 16), LENGTH, [x(5, 3)], {}, {"batch": (1, 8), "length": (1, 128)},
    ),
    "table after a past": (
        written.TableAfterPast(), past(2, 6, 5), PAST, [past(1, 1, 63), past(1, 65, 63)], {},
        {"length": (1, 65), "past": (1, 63)},
    ),
    "rows looked up after a past": (
        written.LookedUpAfterPast(), past(2, 6, 5), PAST, [past(1, 1, 63), past(1, 65, 63)], {},
        {"length": (1, 65), "past": (1, 63)},
    ),
    "rows of blocks": (
        written.LookedUpWindows(), x(2, 16), {"x": {0: "batch", 1: "8*blocks"}}, [x(1, 128)], {},
        {"blocks": (1, 16)},
    ),
    "rows of windows": (
        written.LookedUpWindows(), x(2, 16), LENGTH, [x(1, 128)], {"length": "8*_length"},
        {"_length": (1, 16)},
    ),
    "pairs": (
        written.Pairs(), x(2, 16), LENGTH, [x(1, 2), x(3, 30)], {"length": "2*_length"},
        {"_length": (1, 2048)},
    ),
    "windows": (
        written.Windows(), x(2, 16), LENGTH, [x(1, 8)], {"length": "8*_length"},
        {"_length": (1, 512)},
    ),
    "a size that is refused": (
        written.Gated(), x(2, 16), LENGTH, [x(1, 4), x(3, 20)], {"length": "4*_length"},
        {"_length": (1, 1024)},
    ),
    "halves": (
        written.Halves(), x(2, 16), LENGTH, [x(1, 2), x(3, 30)], {"length": "2*_length"},
        {"_length": (1, 2048)},
    ),
    "thirds": (function(thirds), x(2, 16), LENGTH, [x(1, 9), x(1, 8)], {}, {"length": (8, 4096)}),
    "first three": (
        function(first_three), x(2, 16), LENGTH, [x(1, 9), x(1, 5)], {}, {"length": (5, 4096)},
    ),
    "text and image": (
        written.TextAndImage(), joined(2, 3, 6), JOINED, [joined(1, 1, 5), joined(2, 7, 2)],
        {"total": "image + text"}, {"text": (1, 4096), "image": (1, 4096)},
    ),
    "no text, one image": (
        written.TextAndImage(), joined(2, 0, 6), JOINED, [joined(1, 1, 5)],
        {"total": "image + text"}, {},
    ),
    "branch": (
        written.Branch(), x(2, 16), LENGTH, [x(1, 64), x(1, 2)], {}, {"length": (1, 64)},
    ),
    "branch, long": (
        written.Branch(), x(2, 100), LENGTH, [x(1, 65)], {}, {"length": (65, 4096)},
    ),
    "square mask": (
        written.Causal(), qk(2, 6), QK, [qk(1, 3), qk(3, 1)], {"k_length": "q_length"},
        {"q_length": (1, 4096)},
    ),
    "empty cache": (written.Cached(), past(1, 1, 0), PAST, [past(2, 3, 7), past(1, 1, 1)], {}, {}),
    "two guidances": (
        written.Doubled(), twice(1, 3), TWICE, [twice(2, 5)], {"twice": "2*batch"},
        {"batch": (1, 8)},
    ),
    "two names of one size": (
        written.Tied(), {"x": written.randn(1, 3, 4), "y": written.randn(1, 3, 4)},
        {"x": {0: "a", 1: "n"}, "y": {0: "b", 1: "m"}},
        [{"x": written.randn(2, 5, 4), "y": written.randn(2, 5, 4)}], {"b": "a", "m": "n"}, {},
    ),
    "filled up": (written.Padded(), x(2, 16), LENGTH, [x(1, 8)], {"length": "8*_length"}, {}),
    "a row less": (written.Shifted(), x(2, 6), LENGTH, [x(1, 3)], {}, {"length": (3, 4096)}),
    "pooled": (function(pooled), x(2, 16), LENGTH, [x(1, 5)], {}, {"length": (4, 4096)}),
    # torch's own solver proves nothing of a maximum
    "a table's maximum": (
        function(beyond_32), x(2, 16), LENGTH, [x(1, 9), x(1, 200)], {}, {"length": (1, 256)},
    ),
    "another way for equal lengths": (
        written.Signed(lambda a, c: a != c), qk(2, 4, 6), QK, [qk(1, 5, 8), qk(3, 1, 6)], {},
        {"q_length": (1, 5), "k_length": (6, 4096)},
    ),
    "a double far away": (
        written.Signed(lambda a, c: a != 2 * c), qk(2, 4, 600), QK, [qk(1, 929, 465)], {},
        {"q_length": (1, 929), "k_length": (465, 4096)},
    ),
    "equal lengths as a number": (
        written.Signed(lambda a, c: int(a == c) == 0), qk(2, 4, 6), QK, [qk(1, 5, 8)], {},
        {"q_length": (1, 5), "k_length": (6, 4096)},
    ),
    "shapes that an operator compares": (
        written.Cached(), past(2, 3, 5), PAST, [past(1, 6, 6)], {},
        {"length": (1, 4096), "past": (1, 4096)},
    ),
    "frames, so many": (
        written.Frames(), frames(2, 12, 3), LENGTH, [frames(1, 9, 3)], {"length": "3*_length"}, {},
    ),
}  # fmt: skip


def line_of(module: nn.Module, code: str) -> str:
    """Return a line of a module's code as a message has it."""
    kind = type(module)
    lines, first = inspect.getsourcelines(kind)
    number = next(i for i, line in enumerate(lines, first) if code in line)
    return f"{inspect.getsourcefile(kind)}:{number}: {lines[number - first].strip()}"


def export(case: tuple, out: Path, **options: Any):
    return ropeexport.export(case[0], case[1], out, dynamic_axes=case[2], **options)


def run(folder: Path, given: Inputs) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return session.run(None, {i.name: given[i.name].numpy() for i in session.get_inputs()})


@pytest.mark.parametrize("name", RIGHT)
def test_the_file_is_right_at_other_sizes(tmp_path, name) -> None:
    module, example, _, others, relations, ranges = RIGHT[name]
    made = export(RIGHT[name], tmp_path)
    assert made.manifest.relations == relations
    found = {axis: (x.min, x.max) for axis, x in made.manifest.axes.items()}
    assert {axis: found.get(axis) for axis in ranges} == ranges
    assert not relations.keys() & found.keys()
    for given in (example, *others):

        def exact(**inputs: np.ndarray) -> Any:
            with torch.no_grad():
                found = module.double()(**{n: torch.from_numpy(x) for n, x in inputs.items()})
            return [found] if isinstance(found, Tensor) else found

        try:
            assert_parity(run(tmp_path, given), exact, inputs=given)
        finally:
            module.float()


# the least and the greatest of every range, and what lies between
@pytest.mark.parametrize(
    "name",
    [
        "table after a past",
        "rows looked up after a past",
        "rows of blocks",
        "windows",
        "text and image",
        "thirds",
        "two guidances",
    ],
)
def test_check_passes_over_the_ranges_that_were_found(tmp_path, name) -> None:
    made = export(RIGHT[name], tmp_path)
    assert made.check(cases=8).verdict == "PASS"
    # and where the caller's own example has the axes as they were
    assert ropeexport.check(tmp_path, module=RIGHT[name][0], cases=4).verdict == "PASS"


REFUSED: dict[str, tuple[tuple, dict[str, Any], str, list[str]]] = {
    "table": (
        (written.Table(), x(2, 16), LENGTH), {"axes": {"length": (1, 64, 256)}},
        "return x * self.table",
        ["torch: length = Dim('length', max=128)", "--axis length=1:64:128",
         "axes={'length': (1, 64, 128)}"],
    ),
    "branch": (
        (written.Branch(), x(2, 16), LENGTH), {"axes": {"length": (2, 64, 256)}},
        "if x.shape[1] > 64", ["--axis length=2:64:64"],
    ),
    "together": (
        (written.TableAfterPast(), past(2, 6, 5), PAST),
        {"axes": {"past": (0, 20, 100), "length": (1, 10, 29)}}, "return torch.cat((past",
        ["length + past <= 128", "--axis past=0:20:99"],
    ),
    "rows, together": (
        (written.LookedUpAfterPast(), past(2, 6, 5), PAST),
        {"axes": {"past": (0, 20, 100), "length": (1, 10, 29)}}, "",
        ["a table has fewer rows", "--axis past=0:20:99"],
    ),
    "one name": (
        (written.Causal(), qk(2, 6), QK),
        {"axes": {"q_length": (1, 8, 64), "k_length": (1, 8, 65)}}, "return (q @ k.transpose",
        ["k_length as q_length", "torch: k_length = q_length", "one name in dynamic_axes"],
    ),
    "a multiple": (
        (written.Windows(), x(2, 16), LENGTH), {"axes": {"length": (3, 4, 7)}},
        "assert length % 8 == 0",
        ["8*_length", "length = 8*_length", "name the axis '8*_length' in dynamic_axes"],
    ),
    "constant": (
        (written.FixedView(), x(2, 16), LENGTH), {}, "return x.view(x.shape[0], 16",
        ["length 16 alone", "torch: length = 16", "leave it out of dynamic_axes"],
    ),
    "loop": ((written.OneAtATime(), x(2, 6), LENGTH), {}, "for i in range", ["length 6 alone"]),
    "square": ((written.Square(), x(2, 16), LENGTH), {}, "side = int", ["length 16 alone"]),
    "a product": (
        (written.Frames(), frames(2, 12, 3), {**LENGTH, "frames": {0: "frames"}}), {},
        "return x.view(x.shape[0], f", ["length % frames", "leave one of them out"],
    ),
    "an even sum": (
        (written.Signed(lambda a, c: (a + c) % 2 == 0), qk(2, 4, 6), QK), {}, "if self.says",
        ["% 2) == 0", "no ranges of them say"],
    ),
    "a product by four": (
        (written.Signed(lambda a, c: (a * c) % 4 == 0), qk(2, 4, 6), QK), {}, "if self.says",
        ["% 4) == 0", "no ranges of them say"],
    ),
    "a difference": (
        (written.Signed(lambda a, c: (a - c) ** 2 != 9), qk(2, 4, 6), QK), {}, "if self.says",
        ["!= 9", "no ranges of them say"],
    ),
    "equal lengths in the ranges given": (
        (written.Signed(lambda a, c: a != c), qk(2, 4, 6), QK),
        {"axes": {"q_length": (1, 8, 64), "k_length": (1, 8, 64)}}, "if self.says",
        ["q_length != k_length", "--axis q_length="],
    ),
    "a number in a tensor": (
        (written.Listed(), {**x(2, 6), "count": torch.tensor(3)}, LENGTH), {}, "int(count)",
        ["data-dependent"],
    ),
    "what the module refuses": (
        (written.Pairs(), {"x": written.randn(2, 15, 4)}, LENGTH), {}, "x.view(b, length // 2", [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_the_line_and_the_way_out(tmp_path, name, capfd) -> None:
    case, options, code, words = REFUSED[name]
    with pytest.raises(ExportError) as caught:
        export(case, tmp_path / "out", **options)
    said = str(caught.value)
    assert "\n" not in said
    for word in (line_of(case[0], code) if code else "", *words):
        assert word in said
    assert not (tmp_path / "out").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "axes", "expected"),
    [
        ("pairs", {"length": (1, 63, 255)}, {"_length": (1, 31, 127)}),
        ("windows", {"length": (1, 64, 71)}, {"_length": (1, 8, 8)}),
        ("square mask", {"k_length": (1, 5, 77)}, {"k_length": (1, 5, 77)}),
        ("two guidances", {"twice": (2, 5, 9)}, {"batch": (1, 2, 4)}),
        ("table after a past", {"past": (0, 20, 100)}, {"length": (1, 28, 28)}),
        ("rows looked up after a past", {"past": (0, 20, 100)}, {"length": (1, 28, 28)}),
    ],
)
def test_a_range_that_was_given_goes_to_what_the_axis_is(tmp_path, name, axes, expected) -> None:
    made = export(RIGHT[name], tmp_path, axes=axes).manifest.axes
    assert {axis: (made[axis].min, made[axis].opt, made[axis].max) for axis in expected} == expected


def test_a_sum_has_no_range_of_its_own(tmp_path) -> None:
    with pytest.raises(AxisRangeError, match=r"name the axis 'image \+ text' in dynamic_axes"):
        export(RIGHT["text and image"], tmp_path / "out", axes={"total": (2, 9, 64)})


def test_each_change_is_said(tmp_path) -> None:
    said = []
    export(RIGHT["windows"], tmp_path, say=lambda name, did: said.append((name, did)))
    name, did = said[0]
    assert name == "axes"
    assert "the module takes length as 8*_length alone" in did
    assert line_of(written.Windows(), "assert length % 8") in did


def test_the_command_line_takes_the_range_and_prints_the_relation(tmp_path) -> None:
    place = tmp_path / "windows.py"
    place.write_text(
        "import torch\nfrom dynamic_modules import Windows\n"
        "def make():\n"
        "    return Windows(), {'x': torch.ones(2, 16, 4)}, {'x': {0: 'batch', 1: 'length'}}\n"
    )
    given = ("export", f"{place}:make", "-o", str(tmp_path / "out"), "--axis", "length=8:64:128")
    done = CliRunner().invoke(cli, given)
    assert done.exit_code == 0, done.output
    assert "axes: batch 1..8 (best at 2), _length 1..16 (best at 8)\n" in done.output
    assert "axis length is 8*_length, the only way that the module takes it" in done.output
