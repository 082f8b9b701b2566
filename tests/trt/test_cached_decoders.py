"""Decoders with a cache in TensorRT-RTX: two profiles, a cache in place, and what it leaves out."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from command_line import ropeexport as command

import ropeexport
from ropeexport import manifest
from ropeexport.artifact import Artifact
from ropeexport.errors import BuildError
from ropeexport.lint.graph_rules import GRAPH_RULES, Graph
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.profiles import make_profiles
from ropeexport.trt import engine, flavour, preflight
from ropeexport.trt.engine import Parsed
from ropeexport.trt.reporting import Journal, make_builder
from tests.decoders import decoder

pytestmark = [pytest.mark.trt, pytest.mark.pipelines]
CAPACITY = 64
SIZES = {"head_dim": 64, "num_hidden_layers": 2, "vocab_size": 128}
KINDS = {"llama": {}, "gemma3": {"layer_types": ["sliding_attention", "full_attention"]}}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


# all eight of them build; each value is in two of these
@pytest.mark.parametrize(
    ("kind", "form", "dtype"),
    [
        ("llama", "grow", "fp16"),
        ("llama", "fixed", "fp32"),
        ("gemma3", "grow", "fp32"),
        ("gemma3", "fixed", "fp16"),
    ],
)
def test_an_engine_of_two_profiles_whose_fixed_cache_is_updated_in_place(
    tmp_path, kind: str, form: str, dtype: str
) -> None:
    model = decoder(kind, **SIZES | KINDS[kind]).to(DTYPES[dtype])
    ropeexport.export(model, out=tmp_path, cache=form, capacity=CAPACITY)
    built = ropeexport.build(tmp_path)
    record = manifest.read(tmp_path)
    assert built == record.engine
    assert built.in_place == (record.cache.pairs if form == "fixed" else ())
    assert built.attention == ("fused" if dtype == "fp16" else "decomposed")
    assert len(record.cache.pairs) == 4
    reading, writing = built.profiles
    assert (reading.max["input_ids"], reading.max["attention_mask"]) == ((8, 64), (8, 64))
    assert (writing.max["input_ids"], writing.max["attention_mask"]) == ((8, 1), (8, 64))
    told = command("inspect", tmp_path).stdout
    assert f"\ncache: {form}, 64 tokens, 2 layers\n" in told
    assert ("  cache: 4 tensors, updated in place\n" in told) == (form == "fixed")
    _, first, second = re.split(r"  profile \d, (?:prefill|decode) \(min, opt, max\):\n", told)
    assert "input_ids  1x1  2x16  8x64" in first
    assert "input_ids  1x1  2x1  8x1" in second
    assert "attention-limits" not in {each.rule for each in ropeexport.lint(tmp_path).errors}


class Watching:
    """A builder of TensorRT's, and the profiles that it has made."""

    def __init__(self, builder) -> None:
        self.builder, self.made = builder, []

    def create_optimization_profile(self):
        self.made.append(self.builder.create_optimization_profile())
        return self.made[-1]


def test_tensorrt_has_the_shapes_of_both_profiles_in_their_order() -> None:
    from made_tensorrt import PAST, decoder_manifest

    chosen = flavour.load("tensorrt-rtx")
    journal = Journal(chosen)
    builder = make_builder(chosen, journal)
    network, kinds = builder.create_network(0), chosen.module.DataType
    record = decoder_manifest("grow")
    for spec in record.model.inputs:
        shape = tuple(n if isinstance(n, int) else -1 for n in spec.shape)
        network.add_input(spec.name, kinds.FLOAT if spec.name == PAST else kinds.INT64, shape)
    config, watching = builder.create_builder_config(), Watching(builder)
    for profile in make_profiles(record):
        engine.add_profile(chosen, Parsed(watching, network, None), config, profile, journal)
    assert config.num_optimization_profiles == 2
    names = ("input_ids", "attention_mask", PAST)
    reading, writing = (
        {name: [tuple(shape) for shape in profile.get_shape(name)] for name in names}
        for profile in watching.made
    )
    assert reading == {
        "input_ids": [(1, 1), (2, 16), (8, 64)],
        "attention_mask": [(1, 1), (2, 16), (8, 64)],
        PAST: [(1, 1, 0, 1), (2, 1, 0, 1), (8, 1, 63, 1)],
    }
    assert writing == {
        "input_ids": [(1, 1), (2, 1), (8, 1)],
        "attention_mask": [(1, 2), (2, 33), (8, 64)],
        PAST: [(1, 1, 1, 1), (2, 1, 32, 1), (8, 1, 63, 1)],
    }


HEADS = "float16[b, 4, l, 64] q, float16[b, 4, s, 64] k, float16[b, 4, s, 64] v"
# opset, further inputs, the node's attributes, its further inputs, and whether TensorRT drops a
# limit; it has a fourth input where there is a mask
ATTENTIONS = {
    "lengths": (24, "int64[b] n", "", ",,, n", True),
    "lengths, causal": (24, "int64[b] n", "<is_causal = 1>", ",,, n", True),
    "lengths and mask": (24, "int64[b] n, bool[b, 1, l, s] m", "", "m,,, n", True),
    "window": (25, "int64[b] n", "<left_window_size = 3>", "", True),
    "window to the right": (25, "int64[b] n", "<right_window_size = 0>", "", True),
    "no window": (25, "int64[b] n", "<left_window_size = -1>", "", False),
    "mask": (24, "int64[b] n, bool[b, 1, l, s] m", "", "m", False),
    "causal": (23, "int64[b] n", "<is_causal = 1>", "", False),
}


def attention(name: str) -> onnx.ModelProto:
    opset, more, attributes, inputs, _ = ATTENTIONS[name]
    taken = f"q, k, v, {inputs}" if inputs else "q, k, v"
    model = onnx.parser.parse_model(
        f'<ir_version: 11, opset_import: ["" : {opset}]>\n'
        f"g ({HEADS}, {more}) => (float16[b, 4, l, 64] y) {{ y = Attention{attributes}({taken}) }}"
    )
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("name", ATTENTIONS)
def test_what_tensorrt_drops_of_attention_is_what_is_found(tmp_path, name: str) -> None:
    """Were its parser to read a limit, its attention would have it: then this rule can go."""
    chosen = flavour.load("tensorrt-rtx")
    trt, journal = chosen.module, Journal(chosen)
    network = make_builder(chosen, journal).create_network(0)
    parser = trt.OnnxParser(network, journal.logger)
    model, dropped = attention(name), ATTENTIONS[name][-1]
    assert parser.parse(model.SerializeToString())  # and nothing is said of it
    (made,) = engine._attentions(chosen, network)
    assert (made.key_value_lengths, made.query_lengths) == (None, None)
    assert (made.mask is not None) == ("mask" in name)
    assert made.causal == ("causal" in name)
    path = tmp_path / "attention.onnx"
    onnx.save(model, path)
    rules = {f.rule for rule in GRAPH_RULES for f in rule.findings(Graph(ir.from_proto(model)))}
    assert ("attention-limits" in rules) == dropped
    if dropped:
        with pytest.raises(BuildError, match=r"attention\.onnx: y: .* explicit boolean mask$"):
            preflight.check_attention(OnnxFile(path))
    else:
        preflight.check_attention(OnnxFile(path))


def test_an_attention_in_a_function_is_found_too(tmp_path) -> None:
    text = """<ir_version: 11, opset_import: ["" : 24, "my" : 1]>
g (float16[b, 4, l, 64] q, int64[b] n) => (float16[b, 4, l, 64] y) { y = my.attend(q, n) }
<domain: "my", opset_import: ["" : 24]>
attend (q, n) => (z) { z = Attention(q, q, q, , , , n) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "attention.onnx")
    with pytest.raises(BuildError, match=r"attention\.onnx: z: TensorRT's parser leaves out"):
        preflight.check_attention(OnnxFile(tmp_path / "attention.onnx"))


def test_nothing_is_built_of_a_file_whose_limits_are_dropped(exported) -> None:
    folder = exported()
    proto = onnx.load(folder / "model.onnx")
    (node,) = (node for node in proto.graph.node if node.op_type == "Attention")
    counts = np.array([7], np.int64)  # a constant: the manifest's inputs stay the file's
    proto.graph.initializer.append(onnx.numpy_helper.from_array(counts, "counts"))
    node.input.extend(["", "", "", "counts"])
    onnx.save(proto, folder / "model.onnx")
    artifact = Artifact.read(folder)
    made = artifact.updated(
        model=artifact.manifest.model.changed(sha256=artifact.model_sha256)
    ).write()
    with pytest.raises(BuildError, match=r"nonpad_kv_seqlen"):
        ropeexport.build(made.folder)
    assert not (folder / "model.engine").exists()
