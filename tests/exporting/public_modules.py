"""Ten modules of public repositories, in writings that no other test has.

The list was drawn up before the first of them was tried, and none was exchanged afterwards.
Each is restated here in our own words; its repository and file are named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ropeexport import Axis

# repository, file, what is written there
SOURCES: dict[str, tuple[str, str, str]] = {
    "llama": (
        "meta-llama/llama", "llama/model.py",
        "precompute_freqs_cis and apply_rotary_emb: torch.polar, complex product, start position",
    ),
    "rotary_embedding_torch": (
        "lucidrains/rotary-embedding-torch", "rotary_embedding_torch/rotary_embedding_torch.py",
        "RotaryEmbedding with interpolate_factor: positions divided, einsum, each angle repeated",
    ),
    "sam2": (
        "facebookresearch/sam2", "sam2/modeling/position_encoding.py",
        "compute_axial_cis and apply_rotary_enc: rows and columns of a grid, complex",
    ),
    "gpt_neox": (
        "EleutherAI/gpt-neox", "megatron/model/positional_embeddings.py",
        "RotaryEmbedding and apply_rotary_pos_emb: length first, tables kept in attributes",
    ),
    "torchtune": (
        "pytorch/torchtune", "torchtune/modules/position_embeddings.py",
        "RotaryPositionalEmbeddings: a table of cosines and sines side by side, read by input_pos",
    ),
    "nanochat": (
        "karpathy/nanochat", "nanochat/gpt.py",
        "apply_rotary_emb: halves rotated the other way round, tables cut to the length",
    ),
    "gemma": (
        "google/gemma_pytorch", "gemma/model.py",
        "precompute_freqs_cis and apply_rotary_emb: halves stacked into complex numbers and back",
    ),
    "litgpt": (
        "Lightning-AI/litgpt", "litgpt/model.py",
        "build_rope_cache and apply_rope: condense_ratio, a part of the head, tables by index",
    ),
    "x_transformers": (
        "lucidrains/x-transformers", "x_transformers/x_transformers.py",
        "RotaryEmbedding with use_xpos and apply_rotary_pos_emb: a scale for each position",
    ),
    "mochi": (
        "genmoai/mochi", "src/genmo/mochi_preview/dit/joint_model/rope_mixed.py",
        "compute_mixed_rotation and apply_rotary_emb_qk_real: frequencies by head, einsum",
    ),
}  # fmt: skip

SIZE, HEADS = 16, 2
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A module, how its inputs are made of a batch and a length, and its dynamic axes."""

    module: nn.Module
    inputs: Callable[[int, int], Tensors]
    dynamic_axes: dict[str, dict[int, str]]
    axes: dict[str, Axis] = field(default_factory=dict)
    sizes: tuple[tuple[int, int], ...] = ((3, 17), (1, 1), (2, 30))


def frequencies(size: int = SIZE) -> Tensor:
    return 1.0 / 10000.0 ** (torch.arange(0, size, 2).float() / size)


def q_and_k(shape: Callable[[int, int], tuple[int, ...]]) -> Callable[[int, int], Tensors]:
    return lambda batch, length: {name: torch.randn(shape(batch, length)) for name in ("q", "k")}


def both(**axes: int) -> dict[str, dict[int, str]]:
    return {name: {axis: label for label, axis in axes.items()} for name in ("q", "k")}


def by_head(batch: int, length: int) -> tuple[int, ...]:
    return batch, HEADS, length, SIZE


def by_token(batch: int, length: int) -> tuple[int, ...]:
    return batch, length, HEADS, SIZE


class Llama(nn.Module):
    """A plain attribute of unit complex numbers, cut from a start position on."""

    start = 3

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(64), frequencies())
        self.freqs_cis = torch.polar(torch.ones_like(angles), angles)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        cis = self.freqs_cis[self.start : self.start + q.shape[1]]

        def turn(x: Tensor) -> Tensor:
            pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
            shape = [n if axis in (1, pairs.ndim - 1) else 1 for axis, n in enumerate(pairs.shape)]
            return torch.view_as_real(pairs * cis.view(*shape)).flatten(3).type_as(x)

        return turn(q), turn(k)


def neighbours_turned(x: Tensor) -> Tensor:
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((-second, first), -1).flatten(-2)


class RotaryEmbeddingTorch(nn.Module):
    """Positions divided by a factor; angles by einsum, each twice, kept by length in a dict."""

    def __init__(self, factor: float = 4.0) -> None:
        super().__init__()
        self.freqs = nn.Parameter(frequencies(), requires_grad=False)
        self.factor, self.cache = factor, {}

    def angles(self, positions: Tensor, key: str) -> Tensor:
        if key not in self.cache:
            product = torch.einsum("..., f -> ... f", positions.type(self.freqs.dtype), self.freqs)
            self.cache[key] = product.repeat_interleave(2, -1)
        return self.cache[key]

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        length = q.shape[-2]
        positions = (torch.arange(length, dtype=q.dtype) + 0) / self.factor
        a = self.angles(positions, f"freqs:{length}|offset:0")
        q, k = (x * a.cos() * 1.0 + neighbours_turned(x) * a.sin() * 1.0 for x in (q, k))
        return q, k


class Sam2(nn.Module):
    """Rows and columns of a square grid; keys of several frames take the table again and again."""

    side = 4

    def __init__(self) -> None:
        super().__init__()
        place = torch.arange(self.side**2, dtype=torch.float32)
        across = (place % self.side).float()
        down = torch.div(place, self.side, rounding_mode="floor").float()
        by_axis = 1.0 / 10000.0 ** (torch.arange(0, SIZE, 4)[: SIZE // 4].float() / SIZE)
        angles = [torch.outer(x, by_axis) for x in (across, down)]
        self.cis = torch.cat([torch.polar(torch.ones_like(a), a) for a in angles], -1)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        cis = self.cis.view(1, 1, *self.cis.shape)
        repeats = k.shape[-2] // q.shape[-2]
        more = cis.unsqueeze(2).expand(-1, -1, repeats, -1, -1).flatten(2, 3)

        def turn(x: Tensor, by: Tensor) -> Tensor:
            pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
            return torch.view_as_real(pairs * by).flatten(3).type_as(x)

        return turn(q, cis), turn(k, more)


class Sam2Memory(Sam2):
    """Attention to frames of memory and to pointers behind them, whose keys are not rotated.

    Of the same repository, sam2/modeling/sam/transformer.py, RoPEAttention with rope_k_repeat.
    """

    pointers = 4

    def __init__(self) -> None:
        super().__init__()
        width = HEADS * SIZE
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.out_proj = nn.Linear(width, width)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        made = (self.q_proj(q), self.k_proj(k), self.v_proj(k))
        q, k, v = (x.unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for x in made)
        turning = k.size(-2) - self.pointers
        q, k[:, :, :turning] = super().forward(q, k[:, :, :turning])
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class GptNeox(nn.Module):
    """Length first; tables made when the length is another than the last, kept in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", frequencies())
        self.length: int | None = None
        self.cos: Tensor | None = None
        self.sin: Tensor | None = None

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        length = q.shape[0]
        if length != self.length:
            self.length = length
            positions = torch.arange(length).type_as(self.inv_freq)
            angles = torch.einsum("i,j->ij", positions, self.inv_freq)
            doubled = torch.cat((angles, angles), -1)
            self.cos, self.sin = doubled.cos()[:, None, None], doubled.sin()[:, None, None]
        cos, sin = self.cos, self.sin

        def turn(x: Tensor) -> Tensor:
            half = x.shape[-1] // 2
            return x * cos + torch.cat((-x[..., half:], x[..., :half]), x.ndim - 1) * sin

        return turn(q), turn(k)


class Torchtune(nn.Module):
    """A buffer of (cosine, sine) by position, read by the ids of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.einsum("i, j -> ij", torch.arange(64, dtype=torch.float32), frequencies())
        self.register_buffer("cache", torch.stack((angles.cos(), angles.sin()), -1), False)

    def forward(self, x: Tensor, input_pos: Tensor) -> Tensor:
        pairs = x.float().reshape(*x.shape[:-1], -1, 2)
        table = self.cache[input_pos].view(-1, pairs.size(1), 1, pairs.size(3), 2)
        (a, b), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
        return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(3).type_as(x)


class Nanochat(nn.Module):
    """Turned the other way round, by buffers that are cut to the length."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(64).float(), frequencies())[None, :, None]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.cos[:, : q.shape[1]], self.sin[:, : q.shape[1]]

        def turn(x: Tensor) -> Tensor:
            half = x.shape[3] // 2
            a, b = x[..., :half], x[..., half:]
            return torch.cat([a * cos + b * sin, a * (-sin) + b * cos], 3)

        return turn(q), turn(k)


class Gemma(nn.Module):
    """Halves as real and imaginary parts, by a table that the positions index."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(64), frequencies()).float()
        self.register_buffer("cis", torch.polar(torch.ones_like(angles), angles))

    def forward(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        cis = self.cis.index_select(0, positions)

        def turn(x: Tensor) -> Tensor:
            halves = torch.stack(torch.chunk(x.transpose(1, 2).float(), 2, -1), -1)
            turned = torch.view_as_real(torch.view_as_complex(halves) * cis).type_as(x)
            joined = torch.cat(torch.chunk(turned, 2, -1), -2)
            return joined.reshape(x.shape[0], x.shape[2], x.shape[1], -1).transpose(1, 2)

        return turn(q), turn(k)


class Litgpt(nn.Module):
    """A part of the head, positions condensed, two tables that the positions index."""

    part = 8

    def __init__(self) -> None:
        super().__init__()
        places = torch.arange(64).float() / 2
        angles = torch.outer(places, frequencies(self.part)).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, q: Tensor, k: Tensor, input_pos: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = (t.index_select(0, input_pos).unsqueeze(-3) for t in (self.cos, self.sin))

        def turn(x: Tensor) -> Tensor:
            half = x.size(-1) // 2
            turned = torch.cat((-x[..., half:], x[..., :half]), -1)
            return (x * cos + turned * sin).to(x.dtype)

        q, k = (torch.cat((turn(x[..., : self.part]), x[..., self.part :]), -1) for x in (q, k))
        return q, k


class XTransformers(nn.Module):
    """xPos: queries grow with their position, keys shrink, about the middle of the sequence."""

    def __init__(self, scale_base: int = 512) -> None:
        super().__init__()
        self.register_buffer("inv_freq", frequencies())
        self.register_buffer("scale", (torch.arange(0, SIZE, 2) + 0.4 * SIZE) / (1.4 * SIZE))
        self.scale_base = scale_base

    def tables(self, t: Tensor) -> tuple[Tensor, Tensor]:
        middle = (t.max() + 1) // 2
        angles = torch.einsum("b i, j -> b i j", t.type_as(self.inv_freq), self.inv_freq)
        power = (t - middle) / self.scale_base
        scale = self.scale ** power[..., None]
        doubled = (torch.stack((x, x), -1).flatten(-2)[:, None] for x in (angles, scale))
        angles, scale = doubled
        return angles, scale

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        angles, scale = self.tables(torch.arange(q.shape[-2])[None])
        rotated = []
        for x, by in ((q, scale), (k, scale**-1.0)):
            turned = neighbours_turned(x)
            rotated.append((x * angles.cos() * by + turned * angles.sin() * by).type(x.dtype))
        return rotated[0], rotated[1]


class Mochi(nn.Module):
    """Learned frequencies for each head, summed over three axes of the position."""

    def __init__(self) -> None:
        super().__init__()
        self.freqs = nn.Parameter(torch.randn(3, HEADS, SIZE // 2))

    def forward(self, q: Tensor, k: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        angles = torch.einsum("nd,dhf->nhf", pos.float(), self.freqs.float())
        cos, sin = angles.cos().to(q.dtype).float(), angles.sin().to(q.dtype).float()

        def turn(x: Tensor) -> Tensor:
            even, odd = x[..., 0::2].float(), x[..., 1::2].float()
            parts = (even * cos - odd * sin, even * sin + odd * cos)
            return torch.stack(parts, -1).flatten(-2).to(x.dtype)

        return turn(q), turn(k)


def _with(name: str, made: Callable[[int, int], Tensor]) -> Callable[[int, int], Tensors]:
    data = q_and_k(by_head if name == "input_pos" else by_token)
    return lambda batch, length: data(batch, length) | {name: made(batch, length)}


def _grid(_: int, length: int) -> Tensor:
    places = torch.arange(length)
    return torch.stack((places // 12, places // 4 % 3, places % 4), -1).float()


LIMITED = {"length": Axis(min=1, opt=16, max=60)}
MODULES: dict[str, Callable[[], Case]] = {
    "llama": lambda: Case(Llama(), q_and_k(by_token), both(batch=0, length=1), LIMITED),
    "rotary_embedding_torch": lambda: Case(
        RotaryEmbeddingTorch(), q_and_k(by_head), both(batch=0, length=2)
    ),
    "sam2": lambda: Case(
        Sam2(),
        lambda batch, _: {
            "q": torch.randn(batch, 1, Sam2.side**2, SIZE),
            "k": torch.randn(batch, 1, 3 * Sam2.side**2, SIZE),
        },
        both(batch=0),
    ),
    "gpt_neox": lambda: Case(
        GptNeox(), q_and_k(lambda b, n: (n, b, HEADS, SIZE)), both(batch=1, length=0)
    ),
    "torchtune": lambda: Case(
        Torchtune(),
        lambda batch, length: {
            "x": torch.randn(by_token(batch, length)),
            "input_pos": torch.randint(0, 64, (batch, length)),
        },
        {name: {0: "batch", 1: "length"} for name in ("x", "input_pos")},
    ),
    "nanochat": lambda: Case(Nanochat(), q_and_k(by_token), both(batch=0, length=1), LIMITED),
    "gemma": lambda: Case(
        Gemma(),
        _with("positions", lambda _, n: torch.arange(5, 5 + n)),
        both(batch=0, length=1) | {"positions": {0: "length"}},
    ),
    "litgpt": lambda: Case(
        Litgpt(),
        _with("input_pos", lambda _, n: torch.arange(5, 5 + n)),
        both(batch=0, length=2) | {"input_pos": {0: "length"}},
    ),
    "x_transformers": lambda: Case(XTransformers(), q_and_k(by_head), both(batch=0, length=2)),
    "mochi": lambda: Case(
        Mochi(), _with("pos", _grid), both(batch=0, length=1) | {"pos": {0: "length"}}
    ),
}
# more of the same repositories, tried later; the second size is that of frames
MORE: dict[str, Callable[[], Case]] = {
    "sam2_memory": lambda: Case(
        Sam2Memory(),
        lambda batch, frames: {
            "q": torch.randn(batch, Sam2.side**2, HEADS * SIZE),
            "k": torch.randn(batch, frames * Sam2.side**2 + Sam2Memory.pointers, HEADS * SIZE),
        },
        {"q": {0: "batch"}, "k": {0: "batch", 1: "keys"}},
        sizes=((3, 5), (1, 1), (2, 3)),
    ),
}
