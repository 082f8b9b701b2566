"""One contender in a process of its own: it says what it generates, and how long that takes.

Run as a script, by the Python of the contender's environment, which need not have ropeexport.  For
each line on standard input it generates one token, then all, and answers with a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Generate = Callable[[Any, int], Any]  # of a prompt and how many tokens: those tokens


def ropeexport(folder: str, threads: int) -> Generate:
    """Through ``ropeexport.load``."""
    import ropeexport

    model = ropeexport.load(folder, device="cpu", threads=threads)

    def generate(prompt: Any, count: int) -> Any:
        made = model.generate(prompt, max_new_tokens=count, eos_token_id=())
        return made[:, prompt.shape[1] :]

    return generate


def bare(folder: str, threads: int) -> Generate:
    """By a session of onnxruntime and a loop, as who has only the file writes them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = onnxruntime.InferenceSession(
        f"{folder}/model.onnx", options, ["CPUExecutionProvider"]
    )
    pasts = {x.name: x.shape for x in session.get_inputs() if x.name.startswith("past")}
    outputs = [x.name for x in session.get_outputs()]

    is_fixed = all(isinstance(slots, int) for _, _, slots, _ in pasts.values())

    def empty(shape: list[Any], batch: int) -> Any:
        _, heads, slots, width = shape
        room = slots if is_fixed else 0
        array = np.zeros((batch, heads, room, width), np.float32)
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)

    def generate(prompt: Any, count: int) -> Any:
        held = {name: empty(shape, len(prompt)) for name, shape in pasts.items()}
        tokens, total, made = prompt, 0, []
        for _ in range(count):
            start, total = total, total + tokens.shape[1]
            binding = session.io_binding()
            given = {  # a binding holds no array by itself
                "input_ids": np.ascontiguousarray(tokens),
                "attention_mask": np.ones((len(tokens), total), np.int64),
                "position_ids": np.tile(np.arange(start, total), (len(tokens), 1)),
            }
            for name, array in given.items():
                binding.bind_cpu_input(name, array)
            for name in outputs:
                past = name.replace("present", "past_key_values")
                if is_fixed and past in held:
                    binding.bind_ortvalue_output(name, held[past])
                else:
                    binding.bind_output(name)
            for name, value in held.items():
                binding.bind_ortvalue_input(name, value)
            session.run_with_iobinding(binding)
            found = dict(zip(outputs, binding.get_outputs(), strict=True))
            tokens = found.pop("logits").numpy()[:, -1].argmax(-1)[:, None]
            made.append(tokens)
            if not is_fixed:
                held = {x.replace("present", "past_key_values"): y for x, y in found.items()}
        return np.concatenate(made, 1)

    return generate


def genai(folder: str, threads: int) -> Generate:
    """By onnxruntime-genai."""
    import onnxruntime_genai as og

    path = Path(folder, "genai_config.json")
    config = json.loads(path.read_text())
    options = config["model"]["decoder"].setdefault("session_options", {})
    options["intra_op_num_threads"] = threads
    path.write_text(json.dumps(config))
    model = og.Model(folder)

    def generate(prompt: Any, count: int) -> Any:
        batch, length = prompt.shape
        parameters = og.GeneratorParams(model)
        sizes = {"max_length": length + count, "min_length": length + count, "batch_size": batch}
        parameters.set_search_options(do_sample=False, **sizes)
        generator = og.Generator(model, parameters)
        generator.append_tokens(prompt.astype(np.int32))
        for _ in range(count):
            generator.generate_next_token()
        return np.stack([generator.get_sequence(row)[length:] for row in range(batch)])

    return generate


def optimum(folder: str, threads: int) -> Generate:
    """By optimum, which exports the model itself."""
    import onnxruntime
    from optimum.onnxruntime import ORTModelForCausalLM

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = ORTModelForCausalLM.from_pretrained(folder, export=True, session_options=options)
    return _transformers(model, threads)


def eager(folder: str, threads: int) -> Generate:
    """By torch, with the cache that transformers takes by default."""
    return _transformers(_loaded(folder), threads)


def eager_static(folder: str, threads: int) -> Generate:
    """By torch, with a cache of a fixed length."""
    given = {"cache_implementation": "static", "disable_compile": True}
    return _transformers(_loaded(folder), threads, **given)


def _loaded(folder: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _transformers(model: Any, threads: int, **more: Any) -> Generate:
    import torch

    torch.set_num_threads(threads)

    def generate(prompt: Any, count: int) -> Any:
        tokens = torch.from_numpy(prompt)
        made = model.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=count,
            min_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0, **more,
        )  # fmt: skip
        return made[:, tokens.shape[1] :].numpy()

    return generate


KINDS = {
    f.__name__: f for f in (ropeexport, bare, genai, optimum, eager, eager_static)
}  # by the names that the command has for them


def main() -> None:
    """Answer each line with the seconds of the prompt alone and of all, and the tokens."""
    kind, folder, *numbers = sys.argv[1:]
    threads, batch, length, vocabulary, count = map(int, numbers)
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries print
    generate = KINDS[kind](folder, threads)
    prompt = np.random.default_rng(0).integers(3, vocabulary, (batch, length))
    generate(prompt, count)  # once, so that memory is there
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for _ in sys.stdin:
        times = []
        for each in (1, count):
            start = time.perf_counter()
            made = generate(prompt, each)
            times.append(time.perf_counter() - start)
        found = {"first": times[0], "all": times[1], "tokens": np.asarray(made).tolist()}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
