"""Models whose own way to compute cannot be traced: mixtures of experts, one key for all heads."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

import ropeexport
from ropeexport.artifact import Artifact
from ropeexport.exporting.translations import translation_table
from ropeexport.models.builtin_models import DTYPES
from ropeexport.models.example import Example
from ropeexport.models.hub.traceable import experts_of_any_type, traceable_experts

pytestmark = pytest.mark.tools  # models of other libraries, minutes of them

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
EXPERTS = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "num_experts_per_tok": 2}
CONFIGS = {
    "Mixtral": {**EXPERTS, "num_local_experts": 4},
    "Qwen3Moe": {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 16, "head_dim": 16},
    "GptOss": {
        **EXPERTS,
        "num_local_experts": 4,
        "head_dim": 16,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "sliding_window": 4,
        "layer_types": ["full_attention"],
    },
    "Falcon": SMALL,
}


def model(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**CONFIGS[kind])
    return transformers.AutoModel.from_config(config).eval()


@pytest.mark.parametrize("kind", CONFIGS)
def test_it_is_exported_as_it_is(tmp_path, kind) -> None:
    module = model(kind)
    config = module.config
    ways = config._experts_implementation, config._attn_implementation
    inputs = {"input_ids": torch.arange(12).view(2, 6)}
    axes = {"input_ids": {0: "batch", 1: "length"}}
    example = Example(module, inputs, axes, constants={"use_cache": False})
    made = ropeexport.export(example, out=tmp_path, axes={"length": (1, 8, 16)})
    assert (made.found, made.replaced) == (1, 1)
    assert made.check(cases=3).verdict == "PASS"
    assert (config._experts_implementation, config._attn_implementation) == ways


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("kind", ["Mixtral", "Qwen3Moe", "GptOss"])
def test_an_expert_has_one_product_and_no_token_a_matrix_of_its_own(tmp_path, kind, dtype) -> None:
    """Gathered for each token, the matrices of 512 tokens and 8 experts would take gigabytes."""
    module = model(kind).to(DTYPES[dtype])
    inputs = {"input_ids": torch.arange(12).view(2, 6)}
    axes = {"input_ids": {0: "batch", 1: "length"}}
    example = Example(module, inputs, axes, constants={"use_cache": False})
    made = ropeexport.export(example, out=tmp_path, axes={"length": (1, 8, 16)})
    assert made.found == made.replaced
    shares = made.check(cases=3, runtimes="onnxruntime").shares
    judged = "EMULATED" if dtype == "bf16" else "onnxruntime"  # whose kernels know no bfloat16
    assert 0 < shares[judged] < 1
    graph = Artifact.read(tmp_path).file.graph.graph
    experts, layers = 4, module.config.num_hidden_layers
    products = [
        node for node in graph.all_nodes()
        if node.op_type == "MatMul" and (source := node.inputs[1].producer()) is not None
        and source.op_type == "Gather"
    ]  # fmt: skip
    assert len(products) == 2 * experts * layers
    assert all(node.inputs[1].shape.rank() == 2 for node in products)


def test_experts_are_put_back() -> None:
    module = model("Mixtral")
    config = module.config
    former = config._experts_implementation
    for other, way in ((traceable_experts, "grouped_mm"), (experts_of_any_type, "eager")):
        config._experts_implementation = "eager"
        with other(module):
            assert config._experts_implementation == way
        assert config._experts_implementation == "eager"
    config._experts_implementation = former


class Grouped(torch.nn.Module):
    """Rows by expert, of which some have none, beside a rotation."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = torch.nn.Parameter(torch.randn(4, 8, 6))

    def forward(self, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        return torch.ops.transformers.grouped_mm_fallback(x, self.matrices, ends)


@pytest.mark.parametrize("ends", [[3, 3, 7, 9], [0, 0, 0, 9], [9, 9, 9, 9], [1, 4, 8, 9]])
def test_a_grouped_product_takes_groups_of_no_rows(ends) -> None:
    torch.manual_seed(0)
    module, x, given = Grouped(), torch.randn(9, 8), torch.tensor(ends, dtype=torch.int32)
    with torch.no_grad():
        program = torch.onnx.export(
            torch.export.export(module, (x, given)), dynamo=True, optimize=False,
            custom_translation_table=translation_table(1), verbose=False, opset_version=23,
        )  # fmt: skip
        expected = module(x, given)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [value.name for value in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (x.numpy(), given.numpy()), strict=True)))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)
