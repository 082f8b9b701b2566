"""A benchmark as a table and a chart, and what the command makes of our file not being timed."""

from __future__ import annotations

import io
from importlib import import_module

import pytest
from click.testing import CliRunner
from made_benches import made_bench, made_timing
from rich.console import Console

from ropeexport.bench import show
from ropeexport.cli.proving import bench_command
from ropeexport.errors import EXIT_MISSING, MissingError

REASON = "onnxruntime 1.32.0 has no CUDAExecutionProvider"


def table_of(found) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(show.render(found))
    return console.file.getvalue()


def cells(found) -> dict[str, tuple[str, ...]]:
    return {row[0]: row for row in show.rows(found, found.groups[0])}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04, "0.0400"), (0.0123456, "0.0123"), (0.5, "0.500"), (1.0, "1.0"), (1234.56, "1234.6")],
)
def test_milliseconds_below_one_keep_three_digits(value, text) -> None:
    assert show.milliseconds(value) == text


def test_ratios_are_to_ropeexport_where_it_was_timed() -> None:
    found = made_bench(made_timing("eager", 4.0, 4.0), made_timing("ropeexport", 2.0, 2.0))
    assert cells(found)["eager torch"][-1] == "2.00"
    assert "to ropeexport" in table_of(found)


def test_ratios_are_to_eager_by_name_where_ropeexport_is_out() -> None:
    timings = made_timing("eager", 4.0, 4.0), made_timing("tensorrt-native", 1.0, 2.0)
    found = made_bench(*timings, device="cuda", ropeexport=REASON)
    assert cells(found)["eager torch"][-1] == "1.00"
    assert cells(found)["ropeexport, TensorRT, native"][-1] == "0.38"  # between 1/4 and 2/4
    assert "to eager" in table_of(found)
    assert "to ropeexport" not in table_of(found)


def test_without_either_there_are_no_ratios() -> None:
    found = made_bench(made_timing("compile", 4.0, 4.0))
    assert cells(found)["torch.compile"][-1] == "-"


def test_on_a_gpu_the_memory_is_the_gpus() -> None:
    timings = made_timing("eager", 4.0, gpu_peak_mb=1234.0), made_timing("ropeexport", 2.0)
    found = made_bench(*timings, device="cuda")
    memory = {label: row[5] for label, row in cells(found).items()}
    assert memory == {"eager torch": "1,234", "ropeexport, onnxruntime": "-"}  # one of before
    assert "GPU MB" in table_of(found)
    assert cells(made_bench(*timings))["eager torch"][5] == "500"
    assert "peak MB" in table_of(made_bench(*timings))


def test_a_time_that_is_the_hosts_is_marked() -> None:
    quick = made_timing("eager", 0.1, launch_ms=0.09)
    slow = made_timing("ropeexport", 1.0, launch_ms=0.09)
    assert (quick.is_launch_bound, slow.is_launch_bound) == (True, False)
    assert not made_timing("eager", 0.1).is_launch_bound
    found = made_bench(quick, slow, device="cuda")
    assert list(cells(found)) == ["eager torch *", "ropeexport, onnxruntime"]
    assert "* bound by launches" in table_of(found)
    assert "bound by launches" not in table_of(made_bench(slow, device="cuda"))


def test_a_run_that_never_timed_our_file_is_missing_something(exported, monkeypatch) -> None:
    found = made_bench(made_timing("eager", 0.5, 0.5), device="cuda", ropeexport=REASON)
    running = import_module("ropeexport.bench.bench")  # the name ropeexport.bench is the verb's
    monkeypatch.setattr(running, "bench", lambda *arguments: found)
    folder = exported()
    result = CliRunner().invoke(bench_command, [str(folder)])
    assert isinstance(result.exception, MissingError)
    assert result.exception.exit_code == EXIT_MISSING
    assert str(result.exception) == f"ropeexport, onnxruntime was not timed: {REASON}"
    assert "eager torch" in result.output
    assert (folder / "bench.json").is_file()
    assert (folder / "bench.png").is_file()
