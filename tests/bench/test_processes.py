"""Contenders' processes: what becomes of one that dies, and of one that is taken out."""

from __future__ import annotations

import math
import os
import signal

import pytest
from made_workers import state, wait_for, write_worker

from ropeexport.bench import processes
from ropeexport.bench.contenders import Setting
from ropeexport.bench.entrants import Entrant
from ropeexport.bench.processes import ContenderError, MakeFile, Process, SetUp
from ropeexport.bench.records import ContenderRecord

WORKER = """
import os, sys
from ropeexport import errors
from ropeexport.child_process import serve
from ropeexport.bench.processes import *

def set_up(order, _):
    {set_up}
    return Ready(load_seconds=1.5)

def turn(asked, _):
    {turn}
    return Turn(seconds=[0.5] * asked.repeats)

def make_file(order, _):
    {set_up}
    return Made(seconds=len(order.sizes))

serve({{SetUp: set_up, RunTurn: turn, MakeFile: make_file}})
"""
SIZES = {"length": 8}


def setting(folder) -> Setting:
    return Setting(folder, folder, None, threads=3)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Return a function that puts code in the workers' place."""

    def write(set_up: str = "pass", turn: str = "pass") -> None:
        code = WORKER.format(set_up=set_up, turn=turn)
        name = write_worker(tmp_path, monkeypatch, code)
        monkeypatch.setattr(processes, "_CONTENDER", name)
        monkeypatch.setattr(processes, "_PREPARE", name)

    return write


@pytest.fixture
def start(written, tmp_path):
    """Return a function that starts a process of the code in the worker's place."""
    made = []

    def start(**code: str) -> Process:
        written(**code)
        outputs = tmp_path / "x.npz"
        order = SetUp(
            contender="plain", setting=setting(tmp_path), seed=0, sizes=SIZES, outputs=outputs
        )
        made.append(Process(order).__enter__())
        return made[-1]

    yield start
    for process in reversed(made):
        process.__exit__(None, None, None)


def test_a_turn_brings_the_figures_and_stops_it_again(start) -> None:
    process = start()
    assert process.ready() == 1.5
    wait_for(process.pid, "T")
    turn = process.turn(SIZES, 2)
    assert (turn.seconds, turn.gpu_peak_mb) == ((0.5, 0.5), None)
    assert math.isnan(turn.peak_mb)
    wait_for(process.pid, "T")


def test_a_contender_has_the_threads_that_it_was_given(start) -> None:
    assert start(set_up="assert os.environ['OMP_NUM_THREADS'] == '3'").ready() == 1.5


def test_one_that_was_killed_while_it_waited_fails_by_its_signal(start) -> None:
    process = start()
    process.ready()
    os.kill(process.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(ContenderError, match="ended by SIGKILL"):
            process.turn(SIZES, 1)


def test_an_answer_that_a_kill_cut_short_is_none(start) -> None:
    process = start(turn='os.write(int(sys.argv[1]), b\'{"event":"resu\'); os._exit(0)')
    process.ready()
    with pytest.raises(ContenderError, match="ended with exit code 0"):
        process.turn(SIZES, 1)


@pytest.mark.parametrize(
    ("raised", "text", "missing"),
    [
        ("errors.MissingError('no GPU')", "no GPU", True),
        ("errors.EngineError('broken')", "broken", False),
        ("ValueError('odd\\nand long')", "ValueError: odd", False),
        ("SystemExit(3)", "its process ended with exit code 3, without a word", False),
    ],
)
def test_a_failure_is_the_contenders_own_and_says_what_is_missing(
    start, tmp_path, raised, text, missing
) -> None:
    process = start(set_up=f"raise {raised!s}".replace("\n", "\\n"))
    with pytest.raises(ContenderError) as found:
        process.ready()
    assert (str(found.value), found.value.missing) == (text, missing)
    order = MakeFile(kind="plain.onnx", setting=setting(tmp_path), sizes=())
    with pytest.raises(ContenderError) as found:
        processes.make(order)
    expected = f"plain.onnx cannot be made: {text}"
    assert (str(found.value), found.value.missing) == (expected, missing)


def test_a_file_is_made_for_all_sizes(written, tmp_path) -> None:
    written()
    order = MakeFile(kind="plain.onnx", setting=setting(tmp_path), sizes=(SIZES, SIZES))
    made = processes.make(order)
    assert (made.seconds, made.version, made.again_seconds) == (2, "", None)


@pytest.mark.parametrize("status", ["WRONG", "FAILED"])
def test_one_that_is_taken_out_gives_its_memory_back(start, status) -> None:
    process = start()
    process.ready()
    record = ContenderRecord(name="plain", label="plain", status="TIMED")
    entrant = Entrant(record, process)
    entrant.out(status, "its reason")
    assert not state(process.pid)
    assert (entrant.record.status, entrant.record.reason) == (status, "its reason")
    assert entrant.process is None
    process.close()
