"""Modules as people write them, whose sizes are not free: tables, halves, windows, branches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Function(nn.Module):
    """A forward of one tensor."""

    def __init__(self, compute: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, x):
        return self.compute(x)


class Table(nn.Module):
    """A table of rows, cut to the length."""

    def __init__(self, rows: int = 128) -> None:
        super().__init__()
        self.register_buffer("table", torch.linspace(0, 1, rows)[:, None])

    def forward(self, x):
        return x * self.table[: x.shape[1]]


class TableAfterPast(nn.Module):
    """A table of rows, cut from what is past to the end of what is new."""

    def __init__(self, rows: int = 128) -> None:
        super().__init__()
        self.register_buffer("table", torch.linspace(0, 1, rows)[:, None])

    def forward(self, x, past):
        start = past.shape[1]
        return torch.cat((past, x * self.table[start : start + x.shape[1]]), 1)


class LookedUpAfterPast(nn.Module):
    """A learned row for each position, from what is past on."""

    def __init__(self, rows: int = 128) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 4)

    def forward(self, x, past):
        start = past.shape[1]
        return torch.cat((past, x + self.table(torch.arange(start, start + x.shape[1]))), 1)


class LookedUpWindows(nn.Module):
    """A learned row for each position, joined by eight."""

    def __init__(self, rows: int = 128) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 4)

    def forward(self, x):
        return (x + self.table(torch.arange(x.shape[1]))).unflatten(1, (-1, 8)).mean(2)


class Pairs(nn.Module):
    """Joins neighbours, as a merger of patches does."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Linear(8, 4)

    def forward(self, x):
        b, length, _ = x.shape
        return self.reduce(x.view(b, length // 2, 8))


class Windows(nn.Module):
    """Windows of eight, as the length is asked to allow."""

    def forward(self, x):
        b, length, d = x.shape
        assert length % 8 == 0
        return x.view(b, length // 8, 8, d).mean(2)


class TextAndImage(nn.Module):
    """One attention over a text and an image, with one rope for both: FLUX's double block."""

    def forward(self, txt, img, pe):
        x = torch.cat((txt, img), 1)
        return (x * pe).softmax(-1)


class Halves(nn.Module):
    """Two chunks, multiplied: they have one size."""

    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        return a * b


class Branch(nn.Module):
    """Another way for what is long."""

    def forward(self, x):
        if x.shape[1] > 64:
            return x - x.mean(1, keepdim=True)
        return 2 * x


class Causal(nn.Module):
    """Scores with a mask that is made in forward."""

    def forward(self, q, k):
        length = q.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)
        return (q @ k.transpose(1, 2) + mask).softmax(-1)


class Cached(nn.Module):
    """Keys of a cache, and new ones."""

    def forward(self, x, past):
        keys = torch.cat((past, x), 1)
        return x @ keys.transpose(1, 2), keys


class Doubled(nn.Module):
    """Two guidances in one batch."""

    def forward(self, x, cond):
        return torch.cat((x, x), 0) * cond


class Tied(nn.Module):
    """Two inputs that are added."""

    def forward(self, x, y):
        return x + y


class Square(nn.Module):
    """Patches of a picture, as many as a square has."""

    def forward(self, x):
        b, length, d = x.shape
        side = int(length**0.5)
        return x.view(b, side, side, d).mean(2)


class Gated(nn.Module):
    """Refuses sizes by itself."""

    def forward(self, x):
        if x.shape[1] % 4 != 0:
            raise ValueError("length has to be a multiple of 4")
        return x.unflatten(1, (-1, 4)).sum(2)


class FixedView(nn.Module):
    """A size that is written down."""

    def forward(self, x):
        return x.view(x.shape[0], 16, 4) * torch.linspace(0, 1, 16)[:, None]


class OneAtATime(nn.Module):
    """A loop over the length."""

    def forward(self, x):
        state = torch.zeros_like(x[:, 0])
        rows = []
        for i in range(x.shape[1]):
            state = 0.5 * state + x[:, i]
            rows.append(state)
        return torch.stack(rows, 1)


class Padded(nn.Module):
    """Fills up to a multiple of eight and cuts again."""

    def forward(self, x):
        length = x.shape[1]
        more = -length % 8
        y = nn.functional.pad(x, (0, 0, 0, more)).unflatten(1, (-1, 8))
        return (y - y.mean(2, keepdim=True)).flatten(1, 2)[:, :length]


class Listed(nn.Module):
    """Reads a number out of a tensor."""

    def forward(self, x, count):
        return x[:, : int(count)].sum(1)


class Shifted(nn.Module):
    """The rows but the first, beside those but the last."""

    def forward(self, x):
        return x[:, 1:] - x[:, :-1]


class Frames(nn.Module):
    """Frames of a clip times the rows of each."""

    def forward(self, x, frames):
        f = frames.shape[0]
        return x.view(x.shape[0], f, x.shape[1] // f, 4) + frames[None, :, None]


class Signed(nn.Module):
    """Two sums, the other way round where their lengths say so."""

    def __init__(self, says: Callable[[int, int], bool]) -> None:
        super().__init__()
        self.says = says

    def forward(self, q, k):
        total = q.sum(1) + k.sum(1)
        if self.says(q.shape[1], k.shape[1]):
            return total
        return -total


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
