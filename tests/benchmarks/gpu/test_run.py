"""A whole run without a GPU: stand-ins for the device, nvcc's results and the tools."""

from __future__ import annotations

import json
from datetime import date

import pytest
import torch

from benchmarks.gpu import bench_part, contenders, parts, result, run, session, table
from benchmarks.gpu.compiler import CompileError
from benchmarks.gpu.options import Options
from benchmarks.gpu.origin import find_origin
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.seed import seed_apply_rope
from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.verdict import FAIL, PASS, REFUSED, SKIPPED, Check, Skipped
from ropeexport.trt.gpu import Gpu

GPU = Gpu("NVIDIA Test 1", "9.0", "13.0")


class EagerKernel:
    """Computes what the kernel must, in each of its forms."""

    def call(self, launch, tuning=None):
        def enqueue(stream: int) -> None:
            if launch.sin is None:
                rotated = seed_apply_rope()(launch.q, launch.k, launch.pe)
            else:
                rotated = [self._by_tables(x, launch) for x in (launch.q, launch.k)]
            for out, x in zip(launch.out, rotated, strict=True):
                out.copy_(x)

        return enqueue

    def _by_tables(self, x, launch):
        half = launch.pairing == "half"
        first, second = x.float().chunk(2, -1) if half else (x[..., 0::2], x[..., 1::2])
        cos, sin = launch.pe, launch.sin
        both = (cos * first - sin * second, sin * first + cos * second)
        joined = torch.cat(both, -1) if half else torch.stack(both, -1).flatten(-2)
        return joined.to(x.dtype)

    def copy(self, to, seen, stream: int) -> None:
        to.copy_(seen)


@pytest.fixture
def without_gpu(monkeypatch, device, tmp_path):
    """A session on the CPU, in which no plugin can be compiled and no rival is at hand."""

    def missing(what: str):
        def raise_skipped(*_: object) -> None:
            raise Skipped(f"MISSING: {what}")

        return raise_skipped

    monkeypatch.setattr(session.Session, "device", lambda self: device)
    monkeypatch.setattr(session.Session, "kernel", lambda self: EagerKernel())
    monkeypatch.setattr(session, "compile_plugin", missing("cmake"))
    monkeypatch.setattr(parts, "find_sanitizer", missing("compute-sanitizer"))
    monkeypatch.setattr(parts, "find_flavours", missing("tensorrt-rtx"))
    for name in ("liger", "flash_attention", "flashinfer"):
        monkeypatch.setattr(bench_part, name, missing(name))
    monkeypatch.setattr(bench_part, "SHAPES", (Shape("flux", 1, 2, 2, 3, 16),))
    monkeypatch.setattr(contenders, "Compiled", lambda mode: contenders._eager_call)
    return Options(out=tmp_path, quick=True, dtypes=("fp16",))


def document(options: Options) -> dict:
    (path,) = options.out.iterdir()
    sources = find_origin().sources[:8]
    assert path.name == f"nvidia-test-1-{date.today().isoformat()}-{sources}-quick.json"
    return json.loads(path.read_text())


def test_a_whole_run(without_gpu, capsys) -> None:
    assert run.run(without_gpu, GPU) == 0
    found = document(without_gpu)
    assert {name: v["verdict"] for name, v in found["verdicts"].items()} == {
        "exactness": PASS, "sanitizer": SKIPPED, "engines": SKIPPED, "bench": PASS
    }  # fmt: skip
    assert found["bit_exact"] is None  # the plugin was left out
    assert found["sanitizer"] is None
    assert found["exactness"][-1]["reason"] == "MISSING: cmake"
    names = {e["group"]: [c["name"] for c in e["contenders"]] for e in found["bench"]}
    assert list(names) == ["kernel", "torch.compile", "Liger", "flash-attention", "FlashInfer"]
    assert names["torch.compile"] == ["ours", "torch.compile"]
    assert names["Liger"] == ["Liger"]
    contenders = [c for entry in found["bench"] for c in entry["contenders"]]
    status = {c["name"]: (c["status"], c["reason"]) for c in contenders}
    assert status["ours"] == status["copy"] == ("TIMED", "")
    assert status["Liger"] == ("SKIPPED", "MISSING: liger")
    assert {"flash-attention", "FlashInfer"} <= status.keys()
    assert len(found["targets"]) > 4
    printed = capsys.readouterr().out
    for text in (
        "exactness  PASS",
        "MISSING: compute-sanitizer",
        "flux fp16, kernel: B=1",
        "written:",
    ):
        assert text in printed


def test_a_second_run_joins_the_first(without_gpu) -> None:
    first = Options(**(vars(without_gpu) | {"only": ("exactness",)}))
    assert run.run(first, GPU) == 0
    bench = vars(without_gpu) | {"only": ("bench",)}
    assert run.run(Options(**(bench | {"dtypes": ("fp16", "bf16")})), GPU) == 0
    assert run.run(Options(**bench), GPU) == 0
    found = document(without_gpu)
    assert len(found["exactness"]) > 8
    assert found["verdicts"].keys() == {"exactness", "bench"}
    timed = [(entry["dtype"], entry["group"]) for entry in found["bench"]]
    assert timed[:4] == [
        *(("fp16", "kernel"), ("bf16", "kernel")),
        *(("fp16", "torch.compile"), ("bf16", "torch.compile")),
    ]


def test_nothing_is_bit_exact_before_the_end(without_gpu, monkeypatch) -> None:
    """A run that is cut short after checks that passed has not looked at the others."""
    written = []
    monkeypatch.setattr(
        result, "write", lambda path, document: written.append(json.loads(json.dumps(document)))
    )
    monkeypatch.setattr(session, "compile_plugin", lambda compiler: None)
    monkeypatch.setattr(parts.plugin, "enqueue_check", lambda *_: Check("plugin", PASS, cases=1))
    assert run.run(Options(**(vars(without_gpu) | {"only": ("exactness",)})), GPU) == 0
    before, *during, last = written
    assert before["verdicts"]["exactness"]["verdict"] == SKIPPED
    assert before["verdicts"]["exactness"]["reason"].startswith("under way")
    counts = [len(document["exactness"]) for document in during]
    checks = max(counts)
    assert counts == [*range(checks + 1), checks]
    assert [document["bit_exact"] for document in during[:-1]] == [None] * (checks + 1)
    assert during[-1]["bit_exact"] is last["bit_exact"] is True
    assert last["verdicts"]["exactness"] == {"verdict": PASS, "reason": ""}


def test_a_kernel_that_is_wrong_fails_everywhere(without_gpu, monkeypatch) -> None:
    class Wrong(EagerKernel):
        def call(self, launch, tuning=None):
            right = super().call(launch)

            def enqueue(stream: int) -> None:
                right(stream)
                launch.out[0].mul_(1.5)

            return enqueue

    monkeypatch.setattr(session.Session, "kernel", lambda self: Wrong())
    only = Options(**(vars(without_gpu) | {"only": ("exactness", "bench")}))
    assert run.run(only, GPU) == 1
    found = document(without_gpu)
    assert found["bit_exact"] is False
    assert {v["verdict"] for v in found["verdicts"].values()} == {FAIL}
    assert "ours: q:" in found["verdicts"]["bench"]["reason"]


def test_what_cannot_run_at_all_exits_with_3(without_gpu) -> None:
    only = Options(**(vars(without_gpu) | {"only": ("sanitizer", "engines")}))
    assert run.run(only, GPU) == 3
    reasons = [v["reason"] for v in document(without_gpu)["verdicts"].values()]
    assert reasons == ["MISSING: compute-sanitizer", "MISSING: tensorrt-rtx"]


def test_a_part_that_breaks_leaves_the_next_its_turn(without_gpu) -> None:
    def broken(_):
        raise CompileError("nvcc failed: error: x")

    def fine(_):
        return Check("bench", PASS)

    only = Options(**(vars(without_gpu) | {"only": ("exactness", "bench")}))
    assert run.run(only, GPU, {"exactness": broken, "bench": fine}) == 1
    assert document(without_gpu)["verdicts"] == {
        "exactness": {"verdict": FAIL, "reason": "CompileError: nvcc failed: error: x"},
        "bench": {"verdict": PASS, "reason": ""},
    }


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((PASS, FAIL), 1),
        ((PASS, SKIPPED), 0),
        ((REFUSED, SKIPPED), 0),
        ((SKIPPED, SKIPPED), 3),
    ],
)
def test_exit_codes(verdicts, expected) -> None:
    assert run.exit_code([Check("part", verdict) for verdict in verdicts]) == expected


def test_every_part_has_a_name_of_its_own() -> None:
    assert {name: part.__name__ for name, part in PARTS.items()} == {n: n for n in PARTS}


def test_engines_and_refusals_are_in_the_table() -> None:
    start = dict.fromkeys(("gpu", "driver", "date", "commit"), "x") | {
        "verdicts": {},
        "exactness": [],
    }
    engine = {"flavour": "tensorrt-rtx", "implementation": "plugin", "dtype": "fp16",
              "stage": "check", "verdict": REFUSED, "message": "unsupported SM"}  # fmt: skip
    target = {"name": "a share", "goal": 0.92, "measured": 0.9, "where": "flux", "met": False}
    record = start | {"sanitizer_checks": [], "engines": [engine], "bench": [], "targets": [target]}
    text = "\n".join(table.lines(record))
    assert "tensorrt-rtx plugin fp16  check  REFUSED  unsupported SM" in text
    assert "a share  at least 0.92  0.900  flux  NOT MET" in text


def test_columns_stand_one_below_the_other() -> None:
    assert list(table.aligned([["a", "bb", ""], ["ccc", "d", "e"]])) == [
        "  a    bb",
        "  ccc  d   e",
    ]


def opened(tmp_path) -> session.Session:
    return run._open(Options(out=tmp_path), GPU)


def test_a_torch_that_sees_no_gpu_is_named(tmp_path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this torch sees a GPU")
    with pytest.raises(Skipped, match=r"MISSING: torch .* sees no GPU"):
        opened(tmp_path).device()


def test_the_plugin_is_compiled_once_or_fails_once(tmp_path, monkeypatch, capsys) -> None:
    opening = opened(tmp_path)
    monkeypatch.setattr(opening, "compiler", object)

    def broken(_: object) -> None:
        raise CompileError("cmake failed")

    monkeypatch.setattr(session, "compile_plugin", broken)
    for _ in range(2):
        with pytest.raises(CompileError, match="cmake failed"):
            opening.plugin()
    assert capsys.readouterr().out.count("compiling the plugin") == 1
