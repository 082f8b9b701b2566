"""Six kinds of decoders with a cache: 200 tokens each, those of ``generate()``, in both forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from decoders import decoder

import ropeexport
from mutants.caches import CACHES
from mutants.trial import RUNTIMES, Court, caught
from ropeexport.parity.options import Options
from ropeexport.parity.rows_alone import RowsAlone
from ropeexport.parity.text_inputs import text_of
from ropeexport.parity.texts import select_texts

pytestmark = pytest.mark.pipelines  # minutes of them, see Makefile

TOKENS, DISTINCT = 200, 50
SIX = ("llama", "qwen3", "gemma3", "gpt_neox", "phi3", "mixtral")
SWITCH = 64  # of phi3


def words_of(made: ropeexport.Exported, model: torch.nn.Module) -> np.ndarray:
    """Return the tokens that are said in the first case of a check."""
    record = made.manifest
    alone = RowsAlone(model, record.cache, ())
    case = select_texts(record, 1, tokens=TOKENS).cases[0]
    text = text_of(case, record.model.inputs[0], record.cache, alone.continued)
    return text["input_ids"][0, case.sizes["prompt"] :]


@pytest.mark.parametrize("form", ["grow", "fixed"])
@pytest.mark.parametrize("kind", SIX)
def test_the_same_200_tokens_as_generate(kind: str, form: str, tmp_path: Path) -> None:
    model = decoder(kind)
    made = ropeexport.export(model, out=tmp_path, cache=form)
    words = words_of(made, model)
    assert len(words) == TOKENS
    assert len(set(words.tolist())) >= DISTINCT
    report = made.check(runtimes="onnxruntime", tokens=TOKENS, cases=2)
    assert report.verdict == "PASS", report.reason
    found = next(runtime for runtime in report.runtimes if runtime.name == "onnxruntime")
    texts = [c for c in report.comparisons if c.runtime == "onnxruntime" and c.tokens]
    # each of three rows, but where they would meet Phi3's switch at other calls
    assert texts[0].tokens.compared == TOKENS
    assert found.tokens.compared == TOKENS * 4 or kind == "phi3"
    assert found.tokens.differing == 0
    assert texts[0].case.sizes["prompt"] < SWITCH < texts[0].case.sizes["tokens"]
    outputs = {c.output for c in report.comparisons if c.status == "PASS"}
    assert outputs == {spec.name for spec in made.manifest.model.outputs}


@pytest.fixture
def half():
    torch.set_default_dtype(torch.float16)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", ["llama", "phi3"])
def test_a_half_type(kind: str, tmp_path: Path, half) -> None:
    model = decoder(kind, scale=2.0)
    report = ropeexport.export(model, out=tmp_path, cache="grow").check(
        runtimes="onnxruntime", tokens=TOKENS, cases=2
    )
    assert report.verdict == "PASS", report.reason
    assert report.dtype == "fp16"


@pytest.mark.parametrize("fault", CACHES, ids=lambda fault: fault.name)
def test_a_fault_changes_the_verdict_and_the_tokens(court: Court, fault) -> None:
    options = Options(lengths=fault.lengths, count=fault.count)
    report = court.check(fault.kind, "fp32", fault.edit, options)
    judged = [c for c in report.comparisons if c.runtime in RUNTIMES]
    assert caught(fault, "fp32", judged).as_expected
    assert report.verdict == "FAIL"
    assert any(c.tokens.differing for c in judged if c.tokens)


@pytest.fixture(scope="module")
def court():
    with Court() as made:
        yield made
