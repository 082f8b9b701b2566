"""A pipeline of a few lines, called as diffusers' are: noise, steps of a transformer, pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import ropeexport

WIDTH = 16
AXES = {
    "hidden_states": {0: "batch", 1: "length"},
    "timestep": {0: "batch"},
    "pe": {2: "length"},
}
CALLS = [{"height": 3, "width": 5}, {"height": 4, "width": 6, "batch": 2, "steps": 3}]


class Denoiser(nn.Module):
    """One attention with rope."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.5)

    def forward(self, hidden_states: Tensor, timestep: Tensor, pe: Tensor) -> Tensor:
        data = self.qkv(hidden_states * (1 + timestep[:, None, None]))
        q, k, v = data.unflatten(-1, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4)
        return self.out(ropeexport.attention(q, k, v, pe))


class Painter:
    """The pipeline; with frames it makes videos, and a blind one has every token in one place."""

    def __init__(self, transformer: nn.Module, *, frames: int = 0, blind: bool = False) -> None:
        self.transformer = transformer
        self.decoder = nn.Sequential(nn.Linear(WIDTH, 3), nn.Dropout(0.5)).eval()
        self.scheduler = object()
        self.frames, self.blind = frames, blind

    @property
    def components(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("scheduler", "transformer", "decoder")}

    def __call__(
        self,
        height: int,
        width: int,
        batch: int = 1,
        steps: int = 2,
        *,
        generator: torch.Generator,
        output_type: str,
        callback_on_step_end: Any,
        callback_on_step_end_tensor_inputs: list[str],
    ) -> tuple[Any]:
        assert (output_type, callback_on_step_end_tensor_inputs) == ("np", ["latents"])
        tokens, dtype = height * width, next(self.decoder.parameters()).dtype
        latents = torch.randn(batch, tokens, WIDTH, generator=generator).to(dtype)
        positions = torch.arange(tokens)[None] * (not self.blind)
        pe = ropeexport.rope(positions, WIDTH // 2, 1e4)[:, None]
        for step in range(steps):
            timestep = torch.full((batch,), 1 - step / 7, dtype=dtype)
            moved = self.transformer(hidden_states=latents, timestep=timestep, pe=pe)
            latents = callback_on_step_end(self, step, timestep, {"latents": latents - moved / 3})[
                "latents"
            ]
        pixels = (self.decoder(latents).float() / 4 + 0.5).clamp(0, 1).unflatten(1, (height, width))
        if self.frames:
            pixels = torch.stack([pixels.roll(at, 1) for at in range(self.frames)], dim=1)
        return (pixels.numpy(),)


def made(
    dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[Painter, list[dict[str, Any]]]:
    """Return the pipeline, the same each time, and its calls."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        painter = Painter(Denoiser().eval(), **options)
    painter.transformer.to(dtype)
    painter.decoder.to(dtype)
    return painter, CALLS


def blind() -> tuple[Painter, list[dict[str, Any]]]:
    return made(blind=True)


def nothing() -> None:
    return None


def export(folder: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Export the pipeline's transformer as a user does who holds it."""
    inputs = {
        "hidden_states": torch.zeros(2, 6, WIDTH, dtype=dtype),
        "timestep": torch.zeros(2, dtype=dtype),
        "pe": torch.zeros(1, 1, 6, WIDTH // 4, 2, 2),
    }
    return ropeexport.export(made(dtype)[0].transformer, inputs, folder, dynamic_axes=AXES)
