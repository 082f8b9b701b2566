"""What torch and onnxscript say goes to a file that a failure names, and nowhere else."""

from __future__ import annotations

import logging
import re
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from command_line import ropeexport
from torch import nn

import ropeexport as package
from ropeexport.errors import ExportError
from ropeexport.exporting.chatter import quiet

FACTORY = """
import warnings, torch
class Talks(torch.nn.Module):
    def forward(self, x, count):
        print("forward has run")
        warnings.warn("a warning of the module")
        return {result}
def make():
    inputs = {{"x": torch.ones(2, 6, 4), "count": torch.tensor(3)}}
    return Talks(), inputs, {{"x": {{0: "batch", 1: "length"}}}}
"""


class Rolls(nn.Module):
    """What torch.onnx does not write: a roll by a size."""

    def forward(self, x):
        return torch.roll(x, -(x.shape[1] // 2), 1)


@pytest.fixture(autouse=True)
def logs(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_a_failure_names_the_file(tmp_path, logs) -> None:
    place = tmp_path / "talks.py"
    place.write_text(FACTORY.format(result="x[:, : int(count)].sum(1)"))
    done = ropeexport("export", f"{place}:make", "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.strip().splitlines()) == 1
    assert f"{place}:7: return x[:, : int(count)].sum(1)" in done.stderr
    (log,) = logs.glob("ropeexport-*.log")
    assert f"all that torch says is in {log}" in done.stderr
    text = log.read_text()
    for part in ("forward has run", "a warning of the module", "Traceback", "data-dependent"):
        assert part in text
    assert not (tmp_path / "out").exists()


def test_a_success_leaves_none_and_says_nothing_of_the_trace(tmp_path, logs) -> None:
    place = tmp_path / "talks.py"
    place.write_text(FACTORY.format(result="x * count"))
    done = ropeexport("export", f"{place}:make", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert not list(logs.glob("ropeexport-*.log"))
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_what_torch_cannot_write_is_named_with_its_line(tmp_path) -> None:
    axes = {"x": {0: "batch", 1: "length"}}
    with pytest.raises(ExportError) as caught:
        package.export(Rolls(), {"x": torch.ones(2, 6, 4)}, tmp_path / "out", dynamic_axes=axes)
    said = str(caught.value)
    assert re.search(rf"aten\.roll\.default: .* \({re.escape(__file__)}:\d+\)", said)
    assert not (tmp_path / "out").exists()


def test_loggers_and_warnings_are_as_they_were(capsys) -> None:
    logger = logging.getLogger("onnxscript.optimizer")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    try:
        with quiet() as heard:
            logger.warning("skipped a folding")
            logging.getLogger("torch.onnx").error("a graph of many lines")
            warnings.warn("of fake tensors", stacklevel=1)
            print("printed")
        assert logger.handlers == [handler]
    finally:
        logger.removeHandler(handler)
    assert logging.getLogger("onnxscript").propagate
    for part in ("skipped a folding", "a graph of many lines", "of fake tensors", "printed"):
        assert part in heard.getvalue()
    assert capsys.readouterr() == ("", "")
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("again", stacklevel=1)


def test_what_is_printed_may_go_on(capsys) -> None:
    with quiet(prints=False) as heard:
        print("seen")
        logging.getLogger("onnx_ir").warning("not seen")
    assert capsys.readouterr() == ("seen\n", "")
    assert heard.getvalue() == "not seen\n"
