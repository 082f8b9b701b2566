"""``generate`` and ``stream`` of an export with its cache: the text of the model itself."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import continued, decoder
from transformers.generation import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import ropeexport
from ropeexport import manifest
from ropeexport.errors import UsageError
from ropeexport.inference.sampling import Sampling

pytestmark = pytest.mark.pipelines

LONG, SHORT = [5, 9, 17, 3, 22, 8, 31, 77, 44], [90, 3, 45]
FORMS = ("grow", "fixed")
CAPACITY = 128
# of others than Llama: a window of 8 tokens, and rotations that change after 64 of them
SLOW = [pytest.param(kind, marks=pytest.mark.pipelines) for kind in ("gemma3", "phi3")]


@dataclass(frozen=True)
class Served:
    """A decoder, and its export in use."""

    eager: Any
    folder: Path
    model: Any


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    made: dict[tuple[str, str], Served] = {}

    def served(kind: str = "llama", form: str = "grow") -> Served:
        if (kind, form) not in made:
            folder = tmp_path_factory.mktemp(f"{kind}-{form}")
            eager = decoder(kind)
            ropeexport.export(eager, out=folder, cache=form, capacity=CAPACITY)
            model = ropeexport.load(folder, device="cpu")
            made[kind, form] = Served(eager, folder, model)
        return made[kind, form]

    return served


@pytest.fixture
def llama(serve) -> Served:
    return serve()


@pytest.fixture
def steps(llama, monkeypatch) -> list[Any]:
    """Return the caches that are made meanwhile, of which each is one generation's."""
    made: list[Any] = []
    make = type(llama.model._runner).kept_cache

    def kept_cache(self: Any, *given: Any) -> Any:
        cache = make(self, *given)
        made.append(weakref.ref(cache))
        return cache

    monkeypatch.setattr(type(llama.model._runner), "kept_cache", kept_cache)
    return made


def padded(side: str) -> dict[str, Any]:
    """Return the two texts as a batch: with a mask, or as they are."""
    if side == "lists":
        return {"input_ids": [LONG, SHORT]}
    gap = [7] * (len(LONG) - len(SHORT))  # which is a token like others
    tokens = {"left": gap + SHORT, "right": SHORT + gap, "inside": SHORT[:1] + gap + SHORT[1:]}
    mask = np.ones((2, len(LONG)), np.int64)
    start = {"left": 0, "right": len(SHORT), "inside": 1}[side]
    mask[1, start : start + len(gap)] = 0
    return {"input_ids": np.array([LONG, tokens[side]]), "attention_mask": mask}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["llama", *SLOW])
def test_each_text_of_a_batch_is_continued_as_it_is_alone(serve, kind: str, form: str) -> None:
    served, new = serve(kind, form), 40 if kind == "llama" else 80
    wanted = [continued(served.eager, text, new) for text in (LONG, SHORT)]
    for side in ("left", "right", "inside", "lists"):
        found = served.model.generate(**padded(side), max_new_tokens=new, eos_token_id=())
        assert found[:, len(LONG) :].tolist() == wanted, side
    assert min(len(set(text)) for text in wanted) > 20  # they vary, or nothing was compared


@pytest.mark.pipelines
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [60, 64, 65])  # before, at and beyond the last of the first ones
def test_a_batch_whose_rotations_change(serve, tmp_path, length: int, form: str) -> None:
    served = serve("phi3", form)
    prompt = torch.randint(3, 500, (3, length), generator=torch.Generator().manual_seed(length))
    options = {"max_new_tokens": 40, "eos_token_id": None, "do_sample": False}
    wanted = served.eager.generate(prompt, **options)
    found = served.model.generate(prompt, max_new_tokens=40, eos_token_id=())
    assert torch.equal(found, wanted)
    folder = Path(shutil.copytree(served.folder, tmp_path / "out"))
    record = manifest.read(folder)
    manifest.write(folder, record.changed(cache=record.cache.changed(reread_at=None)))
    with ropeexport.load(folder, device="cpu") as model:  # reading again is no ornament
        other = model.generate(prompt, max_new_tokens=40, eos_token_id=())
    assert torch.equal(other, wanted) is (length == 65)


def test_texts_end_where_the_models_own_do(llama) -> None:
    prompt = torch.tensor([LONG, [0] * 6 + SHORT])
    texts = [continued(llama.eager, text, 20) for text in (LONG, SHORT)]
    ends = [texts[0][9], texts[1][4]]
    options = {"max_new_tokens": 20, "attention_mask": (prompt != 0).long(), "eos_token_id": ends}
    for pad in ({}, {"pad_token_id": 11}, {"pad_token_id": 500}):  # the model's own is 0
        wanted = llama.eager.generate(prompt, do_sample=False, **options, **pad)
        found = llama.model.generate(prompt, **options, **pad)
        assert torch.equal(found, wanted)
        assert found.shape[1] < prompt.shape[1] + 20  # all had ended
    # the model's own end, 2, and its own padding, which needs no mask
    wanted = llama.eager.generate(prompt, do_sample=False, max_new_tokens=20)
    assert torch.equal(llama.model.generate(prompt, max_new_tokens=20), wanted)
    ended = {"eos_token_id": ends, "pad_token_id": -1}  # which is no token
    found = llama.model.generate([LONG, SHORT], 20, **ended)
    rows = [row[row >= 0].tolist() for row in found]
    assert rows[1] == SHORT + texts[1][:5]
    assert rows[0] == LONG + texts[0][:10]
    alone = llama.model.generate([SHORT], 20, eos_token_id=texts[1][4])
    assert alone.tolist() == [SHORT + texts[1][: texts[1].index(texts[1][4]) + 1]]


def test_padding_that_no_mask_names(llama) -> None:
    texts = np.array([continued(llama.eager, text, 12) for text in (LONG, SHORT)])
    tokens = np.array([LONG, SHORT + [11] * 6])
    found = llama.model.generate(tokens, 12, pad_token_id=11, eos_token_id=())
    assert np.array_equal(found[:, 9:], texts)
    whole = llama.model.generate(tokens, 12, pad_token_id=11, eos_token_id=(11, 10**6))
    assert whole[1, 9:].tolist() == continued(llama.eager, tokens[1].tolist(), 12)


def test_a_stream_gives_the_tokens_as_they_come(llama, steps) -> None:
    wanted = llama.model.generate([LONG, SHORT], 10, eos_token_id=())[:, len(LONG) :]
    stream = llama.model.stream([LONG, SHORT], 10, eos_token_id=())
    count = len(steps)
    first = next(stream)
    assert first.tolist() == wanted[:, 0].tolist()
    first[:] = 0  # the caller's own
    assert np.array_equal(np.stack(list(stream), 1), wanted[:, 1:])
    tensors = llama.model.stream(torch.tensor([SHORT]), 3, eos_token_id=())
    assert [x.tolist() for x in tensors] == [[x] for x in continued(llama.eager, SHORT, 3)]
    assert len(steps) == count + 2


def test_a_stream_that_is_left_lets_its_memory_go(llama, steps) -> None:
    for leave in (lambda stream: stream.close(), lambda stream: None):
        stream = llama.model.stream([LONG], 10)
        next(stream)
        assert steps[-1]() is not None
        leave(stream)
        del stream
        gc.collect()
        assert steps[-1]() is None


@pytest.mark.parametrize("form", FORMS)
def test_texts_at_a_time_do_not_mix(serve, form: str) -> None:
    served, prompts = serve("llama", form), [[5 + i, 9, 17 + i] for i in range(4)]
    wanted = [continued(served.eager, prompt, 30) for prompt in prompts]
    streams = [served.model.stream([prompt], 30, eos_token_id=()) for prompt in prompts]
    found = [[int(x[0]) for x in step] for step in zip(*streams, strict=True)]
    assert [list(text) for text in zip(*found, strict=True)] == wanted

    results: dict[int, list[int]] = {}

    def work(index: int) -> None:
        text = served.model.generate([prompts[index]], 30, eos_token_id=())
        results[index] = text[0, 3:].tolist()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[i] for i in range(4)] == wanted


FILTERS = [
    {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"top_p": 0.0}, {"top_k": 10**6},
    {"temperature": 3.0, "top_k": 12, "top_p": 0.6}, {"top_k": 0, "top_p": 1.0},
]  # fmt: skip


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_tokens_are_drawn_from_what_transformers_keeps(options: dict[str, Any]) -> None:
    generator = np.random.default_rng(0)
    logits = (3 * generator.standard_normal((50, 64))).astype(np.float32)
    if "top_p" not in options:  # of which transformers leaves open what it keeps
        logits[:, 7] = logits[:, 3]
    steps = LogitsProcessorList([TemperatureLogitsWarper(float(options.get("temperature", 1.0)))])
    if options.get("top_k"):
        steps.append(TopKLogitsWarper(options["top_k"]))
    if options.get("top_p", 1.0) < 1.0:
        steps.append(TopPLogitsWarper(options["top_p"]))
    wanted = steps(None, torch.from_numpy(logits)).softmax(-1).numpy()
    found = Sampling(**options).scores(logits)
    powers = np.exp(found - found.max(-1, keepdims=True))
    np.testing.assert_allclose(powers / powers.sum(-1, keepdims=True), wanted, rtol=1e-5, atol=0)


def test_tokens_come_as_often_as_they_are_likely() -> None:
    count = 40_000
    logits = np.tile(np.array([[0.0, 1.0, -2.0, 2.0, -9.0]], np.float32), (count, 1))
    drawn = Sampling(top_k=4, temperature=0.8).drawn(logits, np.random.default_rng(3))
    powers = np.exp(logits[0, :4].astype(np.float64) / 0.8)
    chances = powers / powers.sum()
    found = Counter(drawn.tolist())
    assert found[4] == 0
    for token, chance in enumerate(chances):
        deviation = np.sqrt(count * chance * (1 - chance))
        assert abs(found[token] - count * chance) < 5 * deviation


def test_a_seed_says_which_text_is_drawn(llama) -> None:
    def text(**options: Any) -> list[list[int]]:
        drawn = llama.model.generate([LONG, LONG], 20, do_sample=True, eos_token_id=(), **options)
        return drawn[:, len(LONG) :].tolist()

    first = text(seed=1, temperature=5.0)
    assert first == text(seed=1, temperature=5.0)
    assert first[0] != first[1]
    assert first != text(seed=2, temperature=5.0)
    likeliest = continued(llama.eager, LONG, 20)
    assert text(top_k=1) == text(top_p=0.0) == [likeliest, likeliest]
    assert first[0] != likeliest


REFUSED = {
    "too many": (
        {"max_new_tokens": CAPACITY - 8},
        "expected 9 tokens and the new ones to fit into the cache's capacity of 128, got 120",
    ),
    "a larger batch": (
        {"input_ids": [[5]] * 9}, "axis batch: the export is for 1 to 8, got 9",
    ),
    "none": ({"max_new_tokens": 0}, "max_new_tokens: expected a whole number, 1 or more, got 0"),
    "an empty text": ({"input_ids": [LONG, []]}, "got padding alone in text 1"),
    "no tokens": ({"input_ids": np.zeros((2, 0), int)}, "expected a token in each text, got none"),
    "no text": ({"input_ids": []}, "expected a token in each text, got none"),
    "a masked text": (
        {"input_ids": [LONG], "attention_mask": [[0] * 9]}, "got padding alone in text 0",
    ),
    "another mask": (
        {"attention_mask": np.ones((1, 4), int)}, r"expected shape \(1, 9\), got \(1, 4\)",
    ),
    "one list": ({"input_ids": LONG}, "got tokens of one text alone: put their list into a list"),
    "words": ({"input_ids": [["a", "b"]]}, "expected whole numbers"),
    "nested": ({"input_ids": [[1, [2]]]}, "expected whole numbers, a list of tokens for each text"),
    "floats": ({"input_ids": np.ones((1, 4))}, r"whole numbers, \(batch, length\), got float64"),
    "an unknown token": ({"input_ids": [[512]]}, "expected tokens from 0 to 511, got 512"),
    "a negative token": ({"input_ids": [[-1, 600]]}, "expected tokens from 0 to 511, got -1"),
    "beams": ({"num_beams": 3}, "num_beams: expected one of max_new_tokens, .*as_module"),
    "a seed": ({"seed": -1}, "seed: expected a whole number, 0 or more, got -1"),
    "a pad": ({"pad_token_id": "</s>"}, "pad_token_id: expected a token, got '</s>'"),
    "warm": ({"temperature": "1"}, "temperature: expected more than 0, got '1'"),
    "cold": ({"temperature": 0.0}, "temperature: expected more than 0, got 0.0"),
    "top_k": ({"top_k": -1}, "top_k: expected a whole number, 0 or more, got -1"),
    "top_p": ({"top_p": 1.5}, "top_p: expected 0 to 1, got 1.5"),
    "ends": ({"eos_token_id": [[1], [2, 3]]}, "eos_token_id: expected a token, several or"),
    "an end": ({"eos_token_id": "</s>"}, "eos_token_id: expected a token, several or"),
}  # fmt: skip


@pytest.mark.parametrize("which", REFUSED)
def test_what_cannot_be_is_refused_before_anything_runs(llama, steps, which: str) -> None:
    given, message = REFUSED[which]
    for start in (llama.model.generate, llama.model.stream):
        with pytest.raises(UsageError, match=message) as error:
            start(**{"input_ids": [LONG], "max_new_tokens": 4} | given)
        assert "\n" not in str(error.value)
    assert not steps


def test_the_whole_capacity_is_used(serve) -> None:
    new = CAPACITY - len(LONG)
    wanted = continued(serve().eager, LONG, new)
    for form in FORMS:
        found = serve("llama", form).model.generate([LONG], new, eos_token_id=())
        assert found[0, len(LONG) :].tolist() == wanted


@pytest.mark.parametrize("form", FORMS)
def test_a_call_beyond_the_capacity_is_refused(serve, form: str) -> None:
    model = serve("llama", form).model
    model.warmup()  # at the usual sizes, which fit
    inputs = model.random_inputs({"batch": 1, "past": 120, "length": 8})
    assert model.run(inputs)["logits"].shape == (1, 8, 512)
    with pytest.raises(
        UsageError, match=r"at most 128 tokens, the capacity .*, got 129: export ag"
    ):
        model.random_inputs({"batch": 1, "past": 120, "length": 9})
    longer = {name: np.concatenate([x, x[:, -1:]], 1) for name, x in inputs.items() if x.ndim == 2}
    with pytest.raises(
        UsageError, match=r"at most 128 tokens, the capacity .*, got 129: export ag"
    ):
        model.run(inputs | longer)


def test_an_export_that_says_nothing_of_a_cache(llama, tmp_path) -> None:
    folder = Path(shutil.copytree(llama.folder, tmp_path / "out"))
    manifest.write(folder, manifest.read(folder).changed(cache=None))
    with ropeexport.load(folder, device="cpu") as model:
        for start in (model.generate, model.stream):
            with pytest.raises(UsageError, match=r"got one that does not: export .* \(--cache\)"):
                start([LONG], 4)


def test_a_model_that_was_closed_goes_on_no_more(llama) -> None:
    model = ropeexport.load(llama.folder, device="cpu")
    stream = model.stream([LONG], 4)
    next(stream)
    model.close()
    with pytest.raises(UsageError, match="closed; load it again"):
        next(stream)


@pytest.mark.pipelines
def test_a_runtime_that_keeps_no_cache_by_itself(tmp_path) -> None:
    pytest.importorskip("openvino")
    eager = decoder("llama")  # in groups of heads, which OpenVINO does not know
    ropeexport.export(eager, out=tmp_path / "out", cache="grow", capacity=CAPACITY)
    with ropeexport.load(tmp_path / "out", runtime="openvino") as model:
        found = model.generate(**padded("right"), max_new_tokens=40, eos_token_id=())
    wanted = [continued(eager, text, 40) for text in (LONG, SHORT)]
    assert found[:, len(LONG) :].tolist() == wanted


def test_settings_that_are_left_out_are_named(tmp_path) -> None:
    eager = decoder("llama")
    eager.generation_config.repetition_penalty = 1.3
    ropeexport.export(eager, out=tmp_path / "out", cache="grow", capacity=16)
    said = r"repetition_penalty=1\.3, which this leaves out"
    with ropeexport.load(tmp_path / "out", device="cpu") as model, pytest.warns(match=said):
        model.generate([LONG[:3]], max_new_tokens=2)


def test_a_pad_in_a_list_is_a_token(serve) -> None:
    """Whatever its neighbours are: the lengths of lists say what is padding."""
    model = serve("llama", "grow").model
    row = [5, 0, 7]
    rows = [model.generate([row, other], 6, eos_token_id=())[0, -6:] for other in ([8, 9], row)]
    assert rows[0].tolist() == rows[1].tolist() == continued(serve("llama", "grow").eager, row, 6)


def test_messages_say_what_to_give(serve) -> None:
    model = serve("llama", "grow").model
    for given, said in (
        (["a text"], "tokenizer's input_ids"),
        ({"input_ids": [[1]]}, "give its input_ids"),
        ([1, 2, 3], "put their list into a list"),
        ([[3] * CAPACITY], f"at most {CAPACITY - 1} tokens"),
    ):
        with pytest.raises(UsageError, match=said):
            model.generate(given, max_new_tokens=2)


def test_the_example_runs(tmp_path, monkeypatch, capsys) -> None:
    import doctest

    from ropeexport.inference.loaded import LoadedModel

    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder(recurse=False).find(LoadedModel.generate, "generate", globs={})
    result = doctest.DocTestRunner(verbose=False).run(found[0])
    assert result.failed == 0, capsys.readouterr().out
    assert result.attempted > 4
