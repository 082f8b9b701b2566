"""``bench``: what an output folder costs beside what would be run instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ropeexport.artifact import Artifact
from ropeexport.packages import require as require_packages

if TYPE_CHECKING:
    from ropeexport.bench.records import Bench
    from ropeexport.models.sources import Module


def bench(  # noqa: PLR0913  (a user's choices, all but the first by keyword)
    path: str | Path,
    *,
    against: str | Sequence[str] | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    lengths: int | Sequence[int] = (),
    module: Module | None = None,
    rounds: int = 7,
    repeats: int = 5,
    threads: int | None = None,
    seed: int = 0,
    say: Callable[[str, str, bool], None] = lambda name, text, ok: None,
) -> Bench:
    """Measure an output folder against what you would run instead; write its records and chart.

    Parameters
    ----------
    path : path
        An output folder of :func:`ropeexport.export`, with or without an engine; ``bench.json`` and
        ``bench.png`` are written into it.
    against : str or sequence of str
        Contenders by name; by default all.
    device : str
        ``cpu`` or ``cuda``; by default ``cuda`` where torch sees a GPU.
    lengths : int or sequence of int
        By default the profile's optimum.
    module : nn.Module, Example, callable or str
        What the folder was exported from, where that is your own code, as for
        :func:`ropeexport.check`.  Contenders run in processes of their own: what you hold is
        written for them, its weights too, into a temporary folder; a factory's reference
        ``FILE.py:NAME`` needs no such copy.
    rounds, repeats : int
        Turns, and runs in a turn.
    threads : int
        By default the number of cores.
    seed : int
        Of the inputs.
    say : callable
        Called with each contender's name, a text, and whether it runs.

    Returns
    -------
    Bench
        Every contender: TIMED, or WRONG, SKIPPED or FAILED with its reason.

    Raises
    ------
    RopeExportError
        Where no run can be set up: no manifest, a module that cannot be rebuilt, or one that does
        not pickle.

    Examples
    --------
    >>> import ropeexport
    >>> made = ropeexport.export("flux-attention", out="out", heads=2, head_dim=16, length=32)
    >>> found = ropeexport.bench("out", against=["eager"], device="cpu", rounds=1, repeats=1)
    >>> {record.name: record.status for record in found.contenders}
    {'eager': 'TIMED', 'ropeexport': 'TIMED'}
    """
    require_packages("torch", "onnxruntime", "matplotlib")
    from ropeexport import atomic
    from ropeexport.bench import show
    from ropeexport.bench.bench import bench as run
    from ropeexport.bench.options import BenchOptions
    from ropeexport.bench.records import CHART_NAME, FILE_NAME
    from ropeexport.parity.options import several

    options = BenchOptions(
        lengths=several("lengths", lengths, int), rounds=rounds, repeats=repeats, seed=seed,
        module=module, device=device,
    )  # fmt: skip
    if against:
        options = replace(options, against=several("against", against, str))
    options = replace(options, threads=threads) if threads else options
    folder = Path(path)
    found = run(Artifact.read(folder), options, say)
    atomic.write_text(folder / FILE_NAME, found.model_dump_json(indent=1) + "\n")
    atomic.write_bytes(folder / CHART_NAME, show.chart(found))
    return found
