"""Contenders' processes: what becomes of one that dies, and of one that is taken out."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from ropeexport.bench import processes
from ropeexport.bench.entrants import Entrant
from ropeexport.bench.processes import ContenderError, Process
from ropeexport.bench.records import ContenderRecord

READY = '{"load_seconds": 1.5}'
ANSWER = '{"seconds": [0.5], "peak_mb": 2.0, "launch_seconds": null, "gpu_peak_mb": null}'
WORKER = f"""
import sys
print('{READY}', flush=True)
for line in sys.stdin:
    print('{ANSWER}', flush=True)
"""


@pytest.fixture
def start(monkeypatch):
    """Return a function that starts a process of the code in the worker's place."""
    real, made = processes.subprocess.Popen, []

    def start(code: str = WORKER) -> Process:
        words = [sys.executable, "-c", code]
        monkeypatch.setattr(processes.subprocess, "Popen", lambda _, **more: real(words, **more))
        made.append(Process({"threads": 1}))
        return made[-1]

    yield start
    for process in made:
        process.close()


def state(pid: int) -> str:
    """Return a process's state, T for stopped; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def wait_for(pid: int, wanted: str) -> None:
    for _ in range(500):
        if state(pid) == wanted:
            return
        time.sleep(0.01)
    raise AssertionError(f"expected state {wanted}, got {state(pid)}")


def test_a_turn_brings_the_figures_and_stops_it_again(start) -> None:
    process = start()
    assert process.ready() == 1.5
    turn = process.turn({"length": 8}, 1)
    assert (turn.seconds, turn.peak_mb, turn.gpu_peak_mb) == ([0.5], 2.0, None)
    wait_for(process._process.pid, "T")


def test_one_that_was_killed_while_it_waited_fails_by_its_signal(start) -> None:
    process = start()
    process.ready()
    os.kill(process._process.pid, signal.SIGKILL)
    process._process.wait()
    for _ in range(2):  # what was written is still in the buffer the second time
        with pytest.raises(ContenderError, match="ended by SIGKILL"):
            process.turn({"length": 8}, 1)


def test_an_answer_that_a_kill_cut_short_is_none(start) -> None:
    process = start(f"print('{READY}', flush=True); input(); print('{{\"seco', end='', flush=True)")
    process.ready()
    with pytest.raises(ContenderError, match="ended with exit code 0"):
        process.turn({"length": 8}, 1)


@pytest.mark.parametrize("status", ["WRONG", "FAILED"])
def test_one_that_is_taken_out_gives_its_memory_back(start, status) -> None:
    process = start()
    process.ready()
    pid = process._process.pid
    record = ContenderRecord(name="plain", label="plain", status="TIMED")
    entrant = Entrant(record, process)
    entrant.out(status, "its reason")
    assert not state(pid)
    assert (entrant.record.status, entrant.record.reason) == (status, "its reason")
    assert entrant.process is None
    process.close()
