"""Sample inputs: what an axis of the table stands for, and what is left out."""

from __future__ import annotations

import inspect
import re

import diffusers
import pytest
import torch
from torch.utils import _pytree as pytree

from ropeexport.models.hub import transformers_inputs
from ropeexport.models.hub.diffusers_inputs import ARGUMENTS, INPUTS, Input
from ropeexport.models.hub.samples import SIZES, Sample, _sample, of_diffusers

CONFIG = {"channels": 4, "axes": (2, 6, 8), "none": None, "guided": False, "words": 9}


@pytest.mark.parametrize(
    ("axes", "shape", "dynamic", "fixed"),
    [
        ("batch length channels", (2, 12, 4), {0: "batch", 1: "length"}, ()),
        ("batch 4*length", (2, 48), {0: "batch", 1: "4*length"}, ()),
        ("length #axes", (12, 3), {0: "length"}, ()),
        ("1 2*channels+1 3*channels/2", (1, 9, 6), {}, ()),
        ("batch=2 rows=5 channels", (2, 5, 4), {}, ("batch", "rows")),
    ],
)
def test_an_axis_is_dynamic_of_the_config_or_stays(axes, shape, dynamic, fixed) -> None:
    made = _sample("x", axes, CONFIG)
    assert made == Sample(shape, dynamic, "float", fixed=fixed)
    assert made.make(torch.float16).dtype == torch.float16


def test_what_a_config_does_not_have_is_left_out() -> None:
    for given in ("batch none", "batch missing", Input("batch", only="guided")):
        assert _sample("x", given, CONFIG) is None


def test_the_name_says_what_it_is_where_the_row_does_not() -> None:
    words = _sample("encoder_attention_mask", "batch text_length", CONFIG)
    assert words.make(torch.float32).all()
    ids = _sample("img_ids", "length #axes", CONFIG).make(torch.float16)
    assert (ids.dtype, ids[3].tolist()) == (torch.float32, [3.0, 3.0, 3.0])
    tokens = _sample("x", Input("batch length", "int", below="words"), CONFIG).make(torch.float32)
    assert (tokens.dtype, int(tokens.max()) < 9) == (torch.int64, True)


def test_every_row_is_of_a_class_and_of_its_arguments() -> None:
    for name, inputs in INPUTS.items():
        known = inspect.signature(getattr(diffusers, name).forward).parameters
        assert {*inputs, *ARGUMENTS.get(name, {})} <= {*known}, name


@pytest.mark.parametrize("table", [INPUTS, transformers_inputs.INPUTS])
def test_no_two_axes_of_a_row_have_one_size(table) -> None:
    """They would be taken for one."""
    for name, inputs in table.items():
        leaves = pytree.tree_leaves(inputs, is_leaf=lambda x: isinstance(x, Input))
        texts = [x.axes if isinstance(x, Input) else x for x in leaves]
        names = {axis for text in texts for axis in re.findall(r"[a-z_]+(?![a-z_=.])", text)}
        sizes = [SIZES[axis] for axis in names if axis in SIZES]
        assert len(sizes) == len(set(sizes)), name


def test_a_tree_of_inputs_and_arguments_that_are_no_tensors() -> None:
    config = {
        "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "time_embed_dim": 8,
        "in_channels": 4, "text_embed_dim": 8, "use_rotary_positional_embeddings": True,
        "sample_width": 8, "sample_height": 8,
    }  # fmt: skip
    samples = of_diffusers(diffusers.CogVideoXTransformer3DModel.from_config(config))
    cos, sin = samples.made(torch.float16)["image_rotary_emb"]
    assert cos.shape == sin.shape == (32, 8)
    assert samples.constants == {"return_dict": False}
    assert samples.fixed == ("frames", "height", "width", "patches")
    assert samples.axes()["hidden_states"] == {0: "batch"}
    assert "image_rotary_emb.0" not in samples.axes()
