"""The same text from onnxruntime-genai, from optimum and from transformers, token for token.

Each lives in an environment of its own: ``make genai`` and ``make optimum`` put them into
``build/``.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import ropeexport
from tests.command_line import ROOT
from tests.decoders import continued, decoder

pytestmark = pytest.mark.tools

NEW = 40
PROMPTS = ([5, 9, 17, 3, 22, 8, 31, 77, 44, 3, 61, 12, 90], [90, 3, 45, 14])
# a program of the environment, as the benchmarks are told of it
ENVIRONMENTS = {"genai": "ROPEEXPORT_GENAI", "optimum": "ROPEEXPORT_OPTIMUM"}
Texts = list[list[list[int]]]


def said(name: str, folder: Path, new: int, batches: Texts) -> Texts:
    """Return what another runtime generates after batches of prompts."""
    worker = Path(__file__).with_name(f"{name}_worker.py")
    lines = run(name, worker, folder, new, json.dumps(batches)).splitlines()
    texts: Texts = json.loads(lines[-1])
    return texts


def run(name: str, script: Path, *arguments: object) -> str:
    """Return what a script prints in another environment."""
    program = os.environ.get(ENVIRONMENTS[name], f"build/{name}/bin/python")
    python = Path(program).with_name("python")
    if not python.is_file():
        pytest.skip(f"no {name} here: run 'make {name}', or set {ENVIRONMENTS[name]}")
    command = [str(python), "-P", str(script), *map(str, arguments)]
    environment = {x: value for x, value in os.environ.items() if x != "PYTHONPATH"}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def right_padded(prompts: tuple[list[int], ...]) -> list[list[int]]:
    longest = max(map(len, prompts))
    return [prompt + [0] * (longest - len(prompt)) for prompt in prompts]


@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3"])
@pytest.mark.parametrize("form", ["grow", "fixed"])
def test_onnxruntime_genai_says_the_same(tmp_path: Path, kind: str, form: str) -> None:
    model = decoder(kind, eos_token_id=None)
    ropeexport.export(model, out=tmp_path, cache=form, capacity=64)
    expected = [continued(model, prompt, NEW) for prompt in PROMPTS]
    assert len(set(expected[0])) > 12
    batches = [[PROMPTS[0]], right_padded(PROMPTS)]
    (one,), both = said("genai", tmp_path, NEW, batches)
    assert one == expected[0]
    assert both == expected


def test_onnxruntime_genai_reads_again_where_the_rotations_change(tmp_path: Path) -> None:
    import torch

    switch, width = 4096, 8
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": switch,
        "short_factor": [1.0 + 0.1 * i for i in range(width)],
        "long_factor": [2.0 + 0.5 * i for i in range(width)],
    }  # fmt: skip
    sizes = {"max_position_embeddings": 8192, "original_max_position_embeddings": switch}
    model = decoder("phi3", rope_parameters=rope, eos_token_id=None, **sizes)
    random = torch.Generator().manual_seed(1)
    prompt = torch.randint(3, 512, (switch - 11,), generator=random).tolist()
    ropeexport.export(model, out=tmp_path, cache="grow")
    expected = continued(model, prompt, 24)
    assert len(set(expected)) > 5
    assert said("genai", tmp_path, 24, [[prompt]]) == [[expected]]


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_optimum_says_the_same(tmp_path: Path, kind: str) -> None:
    """Of a growing cache, which is the form that it knows; it pads on the left."""
    model = decoder(kind, eos_token_id=None)
    ropeexport.export(model, out=tmp_path, cache="grow", capacity=64)
    expected = [continued(model, prompt, NEW) for prompt in PROMPTS]
    (one,), both = said("optimum", tmp_path, NEW, [[PROMPTS[0]], list(PROMPTS)])
    assert one == expected[0]
    assert both == expected


def test_a_text_is_the_same_text_everywhere(tmp_path: Path) -> None:
    """From a folder as the hub has them, in one command, with the tokenizer that lies in it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from examples.small_llama import make

    make(tmp_path, steps=40)
    ropeexport.export(f"transformers:{tmp_path}", out=tmp_path, cache="grow")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = tokenizer("The import statement", return_tensors="pt")
    own = AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = tokenizer.decode(own.generate(**prompt, max_new_tokens=NEW, do_sample=False)[0])
    with ropeexport.load(tmp_path, device="cpu") as model:
        tokens = model.generate(prompt["input_ids"], max_new_tokens=NEW)
    assert tokenizer.decode(tokens[0]) == expected
    for name in ENVIRONMENTS:
        script = ROOT / "examples" / f"with_{name}.py"
        assert run(name, script, tmp_path, "The import statement", NEW).strip() == expected
