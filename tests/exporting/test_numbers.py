"""Python's arithmetic of sizes: what it computes stays a size of the file."""

from __future__ import annotations

import math
import operator

import pytest
import torch
import transformers
from torch import Tensor, nn

import ropeexport
from ropeexport import Example, ExportError
from ropeexport.exporting.numbers import Number, lengths_kept, sizes_kept

LENGTHS = (9, 14, 31, 57)


class Codec(nn.Module):
    """As transformers' codecs pad: by what their convolution lacks, with tensors of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(2, 2, 7, stride=4)
        for name, number in {"stride": 4, "kernel": 7, "padding": 3}.items():
            self.register_buffer(name, torch.tensor(number), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[-1]
        frames = (length - self.kernel + self.padding) / self.stride + 1
        frames = torch.ceil(frames).to(torch.int64) - 1
        more = frames * self.stride + self.kernel - self.padding - length
        return self.convolution(nn.functional.pad(x, (self.padding, more)))


class Resampled(nn.Module):
    rate = 1.5

    def forward(self, x: Tensor) -> Tensor:
        count = int(x.shape[-1] / self.rate)
        assert isinstance(count, int | torch.SymInt)
        return x[..., :count] + torch.arange(count)


class Relative(nn.Module):
    """As timm's grid for DINOv3 divides places by a size.

    Source: timm ``pos_embed_sincos.py``.
    """

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[-1], dtype=torch.float32)
        assert isinstance(0.5, float)
        assert not isinstance(1, float)
        return x + (places + 0.5) / float(x.shape[-1])


class Counted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(2, 0, 1)
        return rows + torch.ones(len(rows)).cumsum(0)[:, None, None]


class Experts(nn.Module):
    """As Dbrx and LongCat loop over the experts that some token chose, of one more than there are.

    Source: transformers ``modeling_dbrx.py``, ``modeling_longcat_flash.py``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.Parameter(torch.randn(5, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.mT.reshape(-1, 2)
        with torch.no_grad():
            chosen = (rows[:, :1] * 3).abs().long().clamp(max=4)
            mask = nn.functional.one_hot(chosen, num_classes=6).permute(2, 1, 0)
            hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
        total = torch.zeros_like(rows)
        for row in hit:
            expert = row[0]
            _, token = torch.where(mask[expert])
            if token.numel() == 0:
                continue
            total.index_add_(0, token, rows[token] @ self.matrices[expert])
        return total


@pytest.mark.parametrize("kind", [Codec, Resampled, Relative, Counted])
def test_a_size_that_python_computes_is_one_of_the_file(kind: type[nn.Module], tmp_path) -> None:
    module = kind().eval()
    buffers = dict(module.named_buffers())
    example = Example(module, {"x": torch.randn(2, 2, 22)}, {"x": {2: "length"}})
    ropeexport.export(example, out=tmp_path)
    assert dict(module.named_buffers()) == buffers, "it has its own back"
    assert not vars(ropeexport).keys() & {"int", "len"}
    loaded = ropeexport.load(tmp_path, device="cpu")
    for length in LENGTHS:
        x = torch.randn(2, 2, length)
        torch.testing.assert_close(loaded(x), module(x))


def test_the_experts_of_a_library_are_all_in_the_file(tmp_path) -> None:
    config = transformers.DbrxConfig(
        d_model=32, n_heads=2, n_layers=1, max_seq_len=32, vocab_size=32,
        attn_config={"kv_n_heads": 1, "clip_qkv": 8.0, "rope_theta": 10000.0},
        ffn_config={"moe_num_experts": 5, "moe_top_k": 1, "ffn_hidden_size": 16},
    )  # fmt: skip
    config.save_pretrained(tmp_path / "config")
    made = ropeexport.export(
        "transformers:DbrxModel", out=tmp_path / "out", config=tmp_path / "config"
    )
    assert (made.found, made.replaced) == (1, 1)
    assert made.check(cases=6, runtimes="onnxruntime").verdict == "PASS"  # of few tokens too


def test_experts_of_a_library_that_skips_those_without_tokens(tmp_path) -> None:
    config = transformers.LongcatFlashConfig(
        hidden_size=32, num_layers=1, num_hidden_layers=2, num_attention_heads=2,
        ffn_hidden_size=32, expert_ffn_hidden_size=16, n_routed_experts=4, zero_expert_num=2,
        moe_topk=2,
        q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8,
        head_dim=8, vocab_size=32, max_position_embeddings=32,
    )  # fmt: skip
    config.save_pretrained(tmp_path / "config")
    made = ropeexport.export(
        "transformers:LongcatFlashModel", out=tmp_path / "out", config=tmp_path / "config"
    )
    assert (made.found, made.replaced) == (2, 2)
    assert made.check(cases=6, runtimes="onnxruntime").verdict == "PASS"  # of few tokens too


class Looped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for place in range(x.shape[-1] // 4):
            x = x * (place + 1)
        return x


def test_a_loop_over_a_part_of_an_axis_fixes_it_and_is_named(tmp_path) -> None:
    example = Example(Looped(), {"x": torch.randn(2, 2, 12)}, {"x": {2: "4*blocks"}})
    with pytest.raises(ExportError, match=r"takes blocks 3 alone \(.*test_numbers.py") as caught:
        ropeexport.export(example, out=tmp_path)
    assert caught.value.code == "RX203"


def test_a_loop_of_somebody_elses_may_count_and_is_refused(tmp_path) -> None:
    example = Example(Experts().eval(), {"x": torch.randn(2, 2, 22)}, {"x": {2: "length"}})
    with pytest.raises(ExportError, match="data-dependent"):
        ropeexport.export(example, out=tmp_path)


def test_the_files_of_a_module_have_their_own_again() -> None:
    with lengths_kept(Counted()), sizes_kept(Codec()):
        assert {"float", "int", "len"} <= globals().keys()
        assert len([1, 2]) == 2
        assert int("7") == 7
        assert isinstance(3, int)
        assert not isinstance(3.0, int)
        assert float("0.5") == 0.5
        assert isinstance(0.5, float)
    assert not {"float", "int", "len"} & globals().keys()


def test_a_number_computes_as_a_tensor_does() -> None:
    number, tensor = Number(7), torch.tensor(7)
    for apply in (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod):
        assert apply(number, 3) == apply(tensor, 3).item()
        assert apply(30, number) == apply(30, tensor).item()
        assert isinstance(apply(number, 3), int)
    for make in (lambda x: x / 2 + 1, lambda x: 3 - x / 4, lambda x: 5 / x * 2, lambda x: -(x / 2)):
        assert make(number).item() == pytest.approx(make(tensor).item())
        for rounded in (torch.ceil, torch.floor):
            assert rounded(make(number)).to(torch.int64) == rounded(make(tensor)).item()
    assert (number / 2).long() == 3
    assert number / 2 < 4 < number
    assert math.isclose(float(number / 2), 3.5)
    x = torch.arange(8.0)
    assert torch.equal(x * number, x * tensor)
    assert torch.equal(x[number], x[tensor])
