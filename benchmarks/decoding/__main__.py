"""``python -m benchmarks.decoding``: prefill and decode of a small Llama, side by side.

Times ropeexport's ``load``, its files in bare onnxruntime and in onnxruntime-genai, the file of
genai's own builder, optimum's and torch, each in a process of its own, in turns, with the same
threads and the same random weights, and writes ``benchmarks/results/decoding.json``.  All have to
generate the same tokens.  Environments come from ``make genai`` and ``make optimum``; what is not
there is left out by name.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks import machine

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "decoding.json"
_WORKER = Path(__file__).with_name("worker.py")
LAYERS, GROUPS, WIDTH, VOCABULARY = 8, 4, 64, 4096
_SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 512, "intermediate_size": 1408,
    "num_hidden_layers": LAYERS, "num_attention_heads": 8, "num_key_value_heads": GROUPS,
    "head_dim": WIDTH, "max_position_embeddings": 1024,
    "initializer_range": 0.05,  # so that the tokens are not all the same
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_PROMPT, _NEW, _CAPACITY = 128, 128, 512


@dataclass(frozen=True)
class Contender:
    """A row of the table.

    Parameters
    ----------
    name : str
        For people.
    kind : str
        Function of the worker.
    folder : str
        What it runs, beside the others.
    environment : str
        Folder of its environment; empty: this one.
    copies : bool
        Whether each step copies what is held, because the cache gets longer memory.
    """

    name: str
    kind: str
    folder: str
    environment: str = ""
    copies: bool = False


def contenders(genai: str, optimum: str) -> list[Contender]:
    """Return the rows, by where the environments of two are."""
    return [
        Contender("ropeexport.load, fixed", "ropeexport", "fixed"),
        Contender("ropeexport.load, grow", "ropeexport", "grow", copies=True),
        Contender("file as written in bare onnxruntime, fixed", "bare", "fixed"),
        Contender("file as written in bare onnxruntime, grow", "bare", "grow", copies=True),
        Contender("`--attention gqa` in bare onnxruntime, fixed", "bare", "gqa"),
        Contender("onnxruntime-genai, fixed", "genai", "fixed", genai),
        Contender("onnxruntime-genai, grow", "genai", "grow", genai, copies=True),
        Contender("onnxruntime-genai, `--attention gqa`, fixed", "genai", "gqa", genai),
        Contender("onnxruntime-genai, its builder's file", "genai", "built", genai),
        Contender("optimum, its own file", "optimum", "llama", optimum, copies=True),
        Contender("torch, a static cache", "eager_static", "llama"),
        Contender("torch, a cache that grows", "eager", "llama", copies=True),
    ]


@click.command()
@click.option("--rounds", default=7, show_default=True, help="Turns of each contender.")
@click.option("--threads", default=2, show_default=True)
@click.option("--batch", "batches", default=(1, 4), show_default=True, multiple=True)
@click.option("--genai", default=str(ROOT / "build/genai"), help="Environment of genai.")
@click.option("--optimum", default=str(ROOT / "build/optimum"), help="Environment of optimum.")
@click.option(
    "--files", type=click.Path(path_type=Path), help="Keep the models there, and use them again."
)
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(
    rounds: int,
    threads: int,
    batches: tuple[int, ...],
    genai: str,
    optimum: str,
    files: Path | None,
    output: Path,
) -> None:
    """Time prefill and decode of a small Llama, side by side."""
    with TemporaryDirectory() as temporary:
        place = files or Path(temporary)
        if not (place / "gqa").is_dir():
            _prepare(place, genai)
        groups = [
            _group(place, contenders(genai, optimum), rounds, threads, batch) for batch in batches
        ]
    sizes = {"prompt": _PROMPT, "new": _NEW, "capacity": _CAPACITY, "threads": threads}
    machine.write(output, {"rounds": rounds, **sizes, "groups": groups}, "benchmarks/decoding")


def _prepare(place: Path, genai: str) -> None:
    """Write the model, our files of it, and, where it is there, the file of genai's builder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import ropeexport

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**_SIZES)).eval()
    model.save_pretrained(place / "llama")
    forms: tuple[tuple[str, Any, Any], ...] = (
        ("grow", "grow", "standard"), ("fixed", "fixed", "standard"), ("gqa", "fixed", "gqa"),
    )  # fmt: skip
    for folder, cache, attention in forms:
        ropeexport.export(
            model, out=place / folder, cache=cache, capacity=_CAPACITY, attention=attention
        )
    packages = sorted(Path(genai).glob("lib/python3*/site-packages"))
    if packages:
        _tokenizer(place / "llama")
        _build(place, packages[0])


def _tokenizer(folder: Path) -> None:
    """Write a tokenizer, without which genai's builder writes nothing."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t3")
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), unk_token="t3")
    made.save_pretrained(folder)


def _build(place: Path, packages: Path) -> None:
    """Run genai's builder with the torch and transformers of this environment."""
    code = (
        "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
        "runpy.run_module('onnxruntime_genai.models.builder', run_name='__main__')"
    )
    paths = {"-m": place / "llama", "-o": place / "built", "-c": place / "cache"}
    given = [str(x) for pair in paths.items() for x in pair]
    command = [sys.executable, "-c", code, str(packages), *given, "-p", "fp32", "-e", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        click.echo(f"genai's builder: left out: {done.stderr.strip().splitlines()[-1:]}")


class _Process:
    """A contender's process, which answers one line at a time."""

    def __init__(self, row: Contender, place: Path, threads: int, batch: int) -> None:
        python = Path(row.environment, "bin/python") if row.environment else Path(sys.executable)
        folder = place / row.folder
        if not python.exists() or not folder.exists():
            missing = python if not python.exists() else folder
            raise FileNotFoundError(f"{missing} is not there")
        sizes = map(str, (threads, batch, _PROMPT, VOCABULARY, _NEW))
        self._log = (place / "log").open("w+")
        self._child = subprocess.Popen(
            [str(python), str(_WORKER), row.kind, str(folder), *sizes], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self._answer()

    def _answer(self) -> dict[str, Any]:
        """Return the next answer; raise with the last that it said where there is none."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            self._log.seek(0)
            said = self._log.read().strip().splitlines()[-1:]
            raise RuntimeError(f"it ended: {' '.join(said)}")
        found: dict[str, Any] = json.loads(line)
        self._child.send_signal(signal.SIGSTOP)  # its threads may spin while they wait
        return found

    def turn(self) -> dict[str, Any]:
        """Have it generate once."""
        assert self._child.stdin is not None
        self._child.send_signal(signal.SIGCONT)
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it."""
        self._child.kill()
        self._child.wait()
        self._log.close()


def _group(
    place: Path, rows: list[Contender], rounds: int, threads: int, batch: int
) -> dict[str, Any]:
    """Return the rows of one batch, and who was left out."""
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        running: list[tuple[Contender, _Process]] = []
        for row in rows:
            try:
                process = _Process(row, place, threads, batch)
            except (OSError, RuntimeError) as error:
                left_out[row.name] = str(error)
                continue
            stack.callback(process.close)
            running.append((row, process))
            click.echo(f"batch {batch}: {row.name}: ready")
        turns = [[process.turn() for _, process in running] for _ in range(rounds)]
    texts = [turns[0][i]["tokens"] for i in range(len(running))]
    found = list(_rows([row for row, _ in running], turns, texts, batch))
    for row in found:
        click.echo(f"batch {batch}: {row['name']}: {row['decode']['median']:.0f} tokens/s")
    for name, why in left_out.items():
        click.echo(f"batch {batch}: {name}: left out: {why}")
    return {"batch": batch, "rows": found, "left_out": left_out}


def _rows(
    rows: list[Contender], turns: list[list[dict[str, Any]]], texts: list[Any], batch: int
) -> Iterator[dict[str, Any]]:
    held = 2 * LAYERS * batch * GROUPS * WIDTH * 4 * (_PROMPT + _NEW // 2)  # halfway
    for place, row in enumerate(rows):
        taken = [turn[place] for turn in turns]
        decode = [batch * (_NEW - 1) / (x["all"] - x["first"]) for x in taken]
        yield {
            "name": row.name,
            "prefill": _spread([batch * _PROMPT / x["first"] for x in taken]),
            "decode": _spread(decode),
            "copied": held if row.copies else 0,
            "same": texts[place] == texts[0],
        }


def _spread(numbers: list[float]) -> dict[str, float]:
    """Return the median and the ends of what was measured."""
    return {"median": statistics.median(numbers), "low": min(numbers), "high": max(numbers)}


if __name__ == "__main__":
    main()
