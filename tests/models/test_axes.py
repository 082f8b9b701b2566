"""What dynamic axes are meant for where nobody says it, and where somebody does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command_line import ropeexport
from torch import nn

import ropeexport as package
from ropeexport.manifest import Axis
from ropeexport.models.axes import default_axes, longest_of, with_given
from ropeexport.parity.cases import scores_of, select, space_of

BATCH = Axis(min=1, opt=1, max=8, chosen_by="default")
LENGTH = Axis(min=1, opt=512, max=4096, chosen_by="default")
AXES = {"x": {0: "batch", 1: "length"}}


class Scaled(nn.Module):
    """A table of 60 positions."""

    def __init__(self, config: object = None) -> None:
        super().__init__()
        self.register_buffer("table", torch.linspace(1, 2, 60)[:, None])
        if config is not None:
            self.config = config

    def forward(self, x):
        return x * self.table[: x.shape[1]]


class Free(nn.Module):
    """Takes any length, and says what its config says."""

    def __init__(self, config: object = None) -> None:
        super().__init__()
        self.config = config

    def forward(self, x):
        return 2 * x


class Learned(nn.Module):
    """100 learned positions, which are asked for by the length."""

    def __init__(self, *, picked: bool = False) -> None:
        super().__init__()
        self.positions = nn.Embedding(100, 4)
        self.picked = picked

    def forward(self, x):
        rows = torch.arange(2, x.shape[1] + 2)
        return x + (self.positions.weight[rows] if self.picked else self.positions(rows))


def export(module: nn.Module, out: Path, size: tuple[int, ...] = (1, 6, 4), **options):
    return package.export(module, {"x": torch.ones(size)}, out, dynamic_axes=AXES, **options)


@pytest.mark.parametrize(
    ("shapes", "sizes", "expected"),
    [
        (
            {"x": ("batch", "length", 32)},
            {"batch": 1, "length": 6},
            {"batch": BATCH, "length": LENGTH},
        ),
        ({"x": ("batch", "length", 32)}, {}, {"batch": BATCH, "length": LENGTH}),
        ({"x": ("b", 4, "l", 16), "ids": ("l", 3)}, {"b": 1, "l": 6}, {"b": BATCH, "l": LENGTH}),
        ({"x": ("seq_len", 32)}, {"seq_len": 6}, {"seq_len": LENGTH}),
        ({"x": ("n", 32)}, {"n": 5}, {"n": Axis(min=1, opt=5, max=10, chosen_by="default")}),
        (
            {"x": ("batch", "length", 4)},
            {"batch": 1, "length": 3000},
            {"batch": BATCH, "length": Axis(min=1, opt=3000, max=6000, chosen_by="default")},
        ),
        (
            {"x": ("batch", 4, "height", "width")},
            {"batch": 1, "height": 16, "width": 16},
            {"batch": BATCH}
            | dict.fromkeys(("height", "width"), Axis(min=1, opt=23, max=64, chosen_by="default")),
        ),
    ],
)
def test_ranges_that_nobody_gave(shapes, sizes, expected) -> None:
    assert default_axes(shapes, sizes) == expected


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (SimpleNamespace(max_position_embeddings=2048), 2048),
        (SimpleNamespace(text_config=SimpleNamespace(n_positions=1024)), 1024),
        ({"max_sequence_length": 512}, 512),
        (SimpleNamespace(block_size=256, max_position_embeddings=128), 128),
        (SimpleNamespace(hidden_size=64), None),
        (None, None),
    ],
)
def test_the_config_of_a_module_or_of_a_part_of_it_says_how_long(config, longest) -> None:
    assert longest_of(Free(config)) == longest
    assert longest_of(nn.Sequential(nn.Identity(), Free(config))) == longest


def test_an_export_takes_what_the_config_allows(tmp_path: Path) -> None:
    made = export(Free(SimpleNamespace(max_position_embeddings=2048)), tmp_path)
    assert made.manifest.axes["length"] == Axis(min=1, opt=512, max=2048, chosen_by="config")
    report = made.check()
    assert report.verdict == "PASS"
    assert {1, 512, 2048} <= {c.case.sizes["length"] for c in report.comparisons if c.case}


def test_a_range_is_cut_to_what_the_module_takes_and_one_that_is_given_is_not(
    tmp_path: Path,
) -> None:
    made = export(Scaled(), tmp_path / "out")
    assert made.manifest.axes["length"] == Axis(min=1, opt=60, max=60, chosen_by="module")
    assert made.check().verdict == "PASS"
    made = export(Scaled(SimpleNamespace(n_positions=100)), tmp_path / "config")
    assert made.manifest.axes["length"].max == 60
    with pytest.raises(package.AxisRangeError, match=r"the module takes length to 60") as caught:
        export(Scaled(), tmp_path / "given", axes={"length": (1, 16, 61)})
    assert caught.value.bounds == {"length": (None, 60)}
    assert export(Scaled(), tmp_path / "fits", axes={"length": (1, 16, 60)}).folder.is_dir()


@pytest.mark.parametrize("picked", [True, False])
def test_a_range_is_cut_to_the_rows_of_a_table_that_is_looked_up(tmp_path, picked: bool) -> None:
    made = export(Learned(picked=picked), tmp_path / "out")
    assert made.manifest.axes["length"] == Axis(min=1, opt=98, max=98, chosen_by="module")
    assert made.check().verdict == "PASS"
    with pytest.raises(
        package.AxisRangeError, match=r"takes length to 98, as a table has fewer rows"
    ):
        export(Learned(picked=picked), tmp_path / "given", axes={"length": (1, 16, 99)})


def test_sizes_that_are_given_take_the_place_of_the_usual_ones() -> None:
    axes = {
        "batch": BATCH,
        "length": LENGTH,
        "pe_batch": Axis(min=1, opt=1, max=8, broadcasts_to="batch"),
        "pe_heads": Axis(min=1, opt=1, max=2, broadcasts_to=2),
    }
    found = with_given(axes, {"batch": (1, 2, 16)})
    assert found["batch"] == Axis(min=1, opt=2, max=16)
    assert found["pe_batch"] == Axis(min=1, opt=1, max=16, broadcasts_to="batch")
    assert found["pe_heads"] == axes["pe_heads"]
    assert with_given(axes, {"pe_batch": (1, 1, 1)})["pe_batch"].broadcasts_to == "batch"
    assert with_given(axes, None) == axes


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"heads": (1, 2, 3)}, "no such dynamic axis; there are batch"),
        ({"batch": (2, 1, 3)}, "expected 0 <= min <= opt <= max, got 2:1:3"),
        ({"batch": (-1, 1, 3)}, "expected a whole number of 0 to 2,147,483,647, got -1"),
        ({"batch": 4}, r"expected \(min, opt, max\) or an Axis, got 4"),
    ],
)
def test_sizes_that_cannot_be_are_named(given, words: str) -> None:
    with pytest.raises(package.UsageError, match=words):
        with_given({"batch": BATCH}, given)


def test_the_command_line_prints_them_and_takes_others(tmp_path: Path) -> None:
    reference = f"{Path(__file__).parents[1] / 'user_models.py'}:grouped_attention"
    done = ropeexport("export", reference, "-o", tmp_path)
    assert "  axes: batch 1..8 (best at 1), length 1..4096 (best at 512)\n" in done.stdout
    options = ("--axis", "length=2:100:200", "--axis", "batch=1:2:3", "--force")
    done = ropeexport("export", reference, "-o", tmp_path, *options)
    assert "  axes: batch 1..3 (best at 2), length 2..200 (best at 100)\n" in done.stdout
    done = ropeexport("export", reference, "-o", tmp_path, "--axis", "length=1-2", "--force")
    assert (done.returncode, "expected NAME=MIN:OPT:MAX" in done.stderr) == (2, True)
    small = ("--heads", "2", "--head-dim", "16", "--axis", "batch=1:1:4", "--force")
    done = ropeexport("export", "flux-attention", "-o", tmp_path, *small)
    assert (
        "axes: batch 1..4 (best at 1), length 1..2048 (best at 1024), pe_batch 1 or batch, "
        "pe_heads 1 or 2\n"
    ) in done.stdout


def test_a_wide_range_costs_no_wide_check(tmp_path: Path) -> None:
    record = export(Free(), tmp_path).manifest
    space, selection = space_of(record), select(record)
    sizes = [case.sizes for case in selection.cases]
    assert max(scores_of(space, each) for each in sizes) <= 1 << 24
    assert sum(scores_of(space, each) for each in sizes) <= 1 << 27
    assert {"batch": 1, "length": 4096} in sizes
    assert max(each["length"] for each in sizes if each["batch"] == 8) >= 1024
    assert selection.left_out == ("random data batch=8,length=4096",)


@pytest.mark.parametrize("longest", [32768, 131072])
def test_a_range_that_nothing_could_run_is_checked_as_far_as_it_can_be(tmp_path, longest) -> None:
    config = SimpleNamespace(max_position_embeddings=longest)
    record = export(Free(config), tmp_path).manifest
    selection = select(record)
    assert max(case.sizes["length"] for case in selection.cases) == 4096
    assert f"random data batch=1,length={longest}" in selection.left_out
    assert select(record, lengths=(longest,)).cases[-1].sizes["length"] == longest
