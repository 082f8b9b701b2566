"""A small pipeline with its transformer exported: its pictures with that, or a faulty one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_pipelines import PIPELINES

import ropeexport
from examples import qwen_image
from ropeexport.api.making import Export
from ropeexport.parity.pixels import Picture, levels_of


@dataclass(frozen=True)
class Subject:
    """A pipeline with its own transformer, its calls, and what was exported of it."""

    pipe: Any
    calls: list[dict[str, Any]]
    made: Export
    adapt: Callable[..., Any] | None

    @property
    def given(self) -> tuple[Any, ...]:
        """What a check is given."""
        return (self.pipe, self.calls, *([self.adapt] if self.adapt else []))

    @cached_property
    def eager(self) -> list[Picture]:
        """The picture of each call as it is."""
        return [self._picture(call) for call in self.calls]

    def pictures(self, folder: Path) -> list[Picture]:
        """Return the picture of each call with a folder in the transformer's place."""
        own = self.pipe.transformer
        with ropeexport.load(folder, runtime="onnxruntime", device="cpu") as model:
            self.pipe.transformer = model.as_module(like=own, adapt=self.adapt)
            try:
                return [self._picture(call) for call in self.calls]
            finally:
                self.pipe.transformer = own

    def _picture(self, call: dict[str, Any]) -> Picture:
        generator = torch.Generator().manual_seed(7)
        made = self.pipe(**call, generator=generator, output_type="np", return_dict=False)[0]
        return levels_of(np.asarray(made))


def exported(name: str, out: Path, dtype: torch.dtype = torch.float32) -> Subject:
    """Return a pipeline of ``small_pipelines`` with its transformer exported."""
    pipe, calls = PIPELINES[name](dtype)
    if name == "qwen_image":
        example = qwen_image.example(pipe.transformer)
        return Subject(pipe, calls, ropeexport.export(example, out=out), qwen_image.adapt)
    return Subject(pipe, calls, ropeexport.export(pipe.transformer, out=out), None)


def differing(one: list[Picture], other: list[Picture]) -> list[int]:
    """Return how many values of each call's picture are at another level."""
    return [int(np.count_nonzero(a != b)) for a, b in zip(one, other, strict=True)]
