"""Texts of a decoder with a cache: which are chosen, how they are read, what is held to what."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import assert_one_line
from command_line import ropeexport as command
from decoders import decoder

import ropeexport
from mutants.caches import CACHES
from mutants.trial import Court
from ropeexport.errors import ParityError, UsageError
from ropeexport.manifest import Axis, CacheRecord
from ropeexport.parity.cases import Case
from ropeexport.parity.references import Truth
from ropeexport.parity.rows_alone import RowsAlone
from ropeexport.parity.text_inputs import next_tokens, text_of
from ropeexport.parity.text_runs import count_tokens
from ropeexport.parity.texts import Room, is_generated, select_texts
from ropeexport.parity.tolerance import Bound
from ropeexport.report import junit
from ropeexport.testing import assert_export_parity

CAPACITY, SWITCH, WINDOW = 256, 64, 8


@pytest.fixture(scope="module")
def llama():
    return decoder("llama")


@pytest.fixture(scope="module", params=["grow", "fixed"])
def made(request, llama, tmp_path_factory) -> ropeexport.Exported:
    folder = tmp_path_factory.mktemp("decoder")
    return ropeexport.export(llama, out=folder, cache=request.param, capacity=CAPACITY)


def test_the_text_is_that_of_generate(made) -> None:
    report = made.check(runtimes="onnxruntime", tokens=12, cases=6)
    assert report.verdict == "PASS", report.reason
    for runtime in report.runtimes:
        assert runtime.tokens.compared == 12 * (1 + 3 + 3)
        assert runtime.tokens.differing == 0
        assert "all 84 tokens of generate()" in runtime.facts
    assert junit.render(report).count('name="tokens" value="all 84 tokens of generate()"') == 2
    assert "--tokens 12" in report.command or "tokens=12" in report.command
    compared = {c.output for c in report.comparisons if c.runtime == "onnxruntime"}
    assert compared == {spec.name for spec in made.manifest.model.outputs}


def test_a_fault_of_a_cache_is_caught() -> None:
    fault = next(fault for fault in CACHES if fault.name == "written one slot too far")
    with Court() as court:
        [outcome] = court.trials(fault)
    assert outcome.as_expected, outcome
    assert "not the text of generate()" in outcome.where


def test_options_of_a_check(made, llama, tmp_path) -> None:
    report = assert_export_parity(
        made.folder, module=llama, cases=1, tokens=3, require="onnxruntime"
    )
    assert report.runtimes[0].tokens.compared == 3
    lengths = made.check(runtimes="onnxruntime", lengths=(5, 30), atol=1.0)
    assert {c.case.sizes["tokens"] for c in lengths.comparisons} == {5, 30}
    assert {c.bound.rule for c in lengths.comparisons} == {"override"}
    page = tmp_path / "parity.md"
    ropeexport.report(made.folder, markdown=page, junit=tmp_path / "parity.xml")
    suites = (tmp_path / "parity.xml").read_text()
    assert "left-padded text" in suites
    assert lengths.runtimes[0].tokens is None
    assert 'name="tokens"' not in suites
    with pytest.raises(UsageError, match="--lengths: expected 1 to 256 tokens, got 300"):
        made.check(lengths=300)


def test_what_cannot_be_is_refused_in_a_line(made, exported) -> None:
    with pytest.raises(UsageError, match=r"--locate: .* read in many calls"):
        made.check(cases=1, tokens=1, locate=True)
    other = torch.nn.Linear(1, 1)
    example = ropeexport.Example(other, {"input": torch.zeros(1, 1)}, {})
    with pytest.raises(UsageError, match=r"module: expected the decoder .*, got a Linear"):
        ropeexport.check(made.folder, module=example)
    done = command("check", exported(), "--tokens", "3")
    assert_one_line(done, 2, "--tokens: expected an export with a cache")


def record_of(**fields) -> SimpleNamespace:
    """Return of a manifest what says which texts there are."""
    cache = CacheRecord(form="grow", capacity=CAPACITY, pairs=(), **fields)
    axes = {
        "batch": Axis(min=1, opt=2, max=8),
        "length": Axis(min=1, opt=16, max=CAPACITY),
        "past": Axis(min=0, opt=CAPACITY - 1, max=CAPACITY - 1),
    }
    model = SimpleNamespace(inputs=(), max_position=None)
    return SimpleNamespace(cache=cache, axes=axes, engine=None, model=model)


def text(case: Case, cache: CacheRecord) -> dict[str, np.ndarray]:
    ids = SimpleNamespace(below=50, dtype="int64")
    return text_of(case, ids, cache, lambda words, _, steps: np.full((len(words), steps), 7))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("options", [{}, {"count": 40}, {"lengths": (1, 60, 66, 200)}])
@pytest.mark.parametrize("fields", [{}, {"reread_at": SWITCH}, {"window": WINDOW}])
def test_texts_fit_and_are_read_whole(fields, options, seed: int) -> None:
    record = record_of(**fields)
    selection = select_texts(record, 1000, seed=seed, **options)
    assert selection == select_texts(record, 1000, seed=seed, **options)
    assert len(selection.cases) == options.get("count", len(selection.cases)) > 3
    for case in selection.cases:
        made = text(case, record.cache)
        mask, calls = made["attention_mask"], made["calls"].tolist()
        assert mask.shape == (case.sizes["batch"], case.sizes["tokens"])
        assert case.sizes["tokens"] <= CAPACITY
        assert len(calls) == case.sizes["calls"]
        assert (mask.sum(axis=1) >= 1).all()
        assert (mask == 1).all() or "padded" in case.kind
        # every slot is read, in order; what is read again is read from the start
        assert [stop for _, stop in calls] == sorted({stop for _, stop in calls})
        stops = [0, *(stop for _, stop in calls)]
        assert all(start in (before, 0) for (start, _), before in zip(calls, stops, strict=False))
        assert stops[-1] == mask.shape[1]
        if "reread_at" in fields:
            assert_on_one_side(mask, calls)


def assert_on_one_side(mask: np.ndarray, calls: list[list[int]]) -> None:
    """Every call of a reading has all rows below the switch, or all of them beyond."""
    beyond = None
    for start, stop in calls:
        found = set((mask[:, :stop].sum(axis=1) > SWITCH).tolist())
        assert len(found) == 1
        assert start == 0 or found == beyond
        beyond = found


def test_a_designed_run_has_what_it_must() -> None:
    cases = select_texts(record_of(reread_at=SWITCH, window=WINDOW), 1000).cases
    sizes = [case.sizes for case in cases]
    assert {case.kind for case in cases} >= {"text", "left-padded text", "right-padded text"}
    assert {1, 2, SWITCH, CAPACITY} <= {each["tokens"] for each in sizes}
    assert any(each["prompt"] < WINDOW < each["tokens"] for each in sizes)
    assert any(each["prompt"] > SWITCH for each in sizes)
    across = [c for c in cases if c.sizes["prompt"] <= SWITCH < c.sizes["tokens"]]
    assert across
    assert all(is_generated(case.kind) and case.sizes["batch"] == 1 for case in across)
    assert any(each["calls"] > each["tokens"] - each["prompt"] + 1 for each in sizes)  # in chunks


def test_what_costs_too_much_is_left_out_by_name() -> None:
    selection = select_texts(record_of(), 10**9)
    assert selection.cases
    assert any("tokens=256" in name for name in selection.left_out)


def test_a_profile_without_an_empty_cache_is_refused() -> None:
    record = record_of()
    record.axes["past"] = Axis(min=4, opt=5, max=6)
    with pytest.raises(ParityError, match="empty cache"):
        Room.of(record)


def test_rows_alone_are_the_decoder_without_a_cache(llama) -> None:
    ids = torch.arange(1, 13).reshape(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 1]])
    calls = torch.tensor([[0, 4], [4, 6]])
    cache = CacheRecord(
        form="grow", capacity=8,
        pairs=tuple((f"past{n}", f"present{n}") for n in range(4)),
    )  # fmt: skip
    names = ["logits", *(present for _, present in cache.pairs)]
    with torch.no_grad():
        logits, *presents = RowsAlone(llama, cache, names)(ids, mask, calls)
        for row in range(2):
            seen = mask[row] != 0
            expected = llama(ids[row][seen][None], use_cache=False).logits[0]
            torch.testing.assert_close(logits[row][seen], expected)
            assert not logits[row][~seen].any()
            assert all(not state[row][:, ~seen].any() for state in presents)
    assert {tuple(state.shape) for state in presents} == {(2, 2, 6, 16)}


def test_a_tie_is_forced_and_another_token_is_a_fault() -> None:
    case = Case("c", "generated text", {"batch": 1, "tokens": 5, "prompt": 2, "calls": 4}, 0)
    inputs = {
        "input_ids": np.array([[9, 9, 0, 1, 2]]), "attention_mask": np.ones((1, 5), np.int64),
        "calls": np.array([[0, 2], [2, 3], [3, 4], [4, 5]]),
    }  # fmt: skip
    assert list(next_tokens(case, inputs)) == [(0, 1, 0, 0), (0, 2, 1, 1), (0, 3, 2, 2)]
    exact = np.zeros((1, 5, 3))
    exact[0, 1, 0] = exact[0, 2, 1] = exact[0, 3, 2] = 1.0
    bound = Bound(max_abs=0.1, rms=0.1, rule="rounding")

    def counted(*changed: tuple[int, int, float]):
        truth, got = exact.copy(), exact.copy()
        for place, token, value in changed:
            truth[0, place, token], got[0, place, token] = value, 1.01
        told = Truth({"logits": truth}, {}, {})
        found = count_tokens(case, "logits", inputs, told, got, bound)
        return found.compared, found.forced, found.differing, found.fault

    assert counted() == (3, 0, 0, "")
    assert counted((2, 0, 0.95)) == (3, 1, 0, "")
    assert counted((2, 0, 0.5)) == (
        3, 0, 1, "not the text of generate(): row 0, step 1: expected token 1, got 0",
    )  # fmt: skip
    assert counted((1, 1, 0.95), (2, 0, 0.95))[3] == (
        "2 of 3 tokens are ties within the bound, expected 1 at most"
    )
