"""The protocol of child processes: results, failures, crashes, and the end of a child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_workers import HEARS_SIGNALS, ended, state, wait_for, write_worker

from ropeexport import errors
from ropeexport.child_process import Child, CrashError, UnforeseenError
from ropeexport.errors import ExportError, MissingError, RopeExportError
from ropeexport.manifest import Record


class Text(Record):
    text: str = ""


WORKER = """
import os, signal, subprocess, sys, threading, time
from ropeexport import errors
from ropeexport.child_process import serve
from ropeexport.manifest import Record

class Text(Record):
    text: str = ""

def work(request, channel):
    {body}
    return Text(text=request.text)

serve({{Text: work}})
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Return a function that makes a worker do something before it echoes."""

    def make(body: str = "") -> str:
        return write_worker(tmp_path, monkeypatch, WORKER.format(body=body.strip() or "pass"))

    return make


def ask(module: str, text: str = "hello", **heard) -> str:
    with Child(module) as child:
        return child.ask(Text(text=text), Text, **heard).text


def test_a_result_comes_back_whatever_its_text(worker) -> None:
    text = 'two\nlines, "quotes", \u2028, é, \0'
    assert ask(worker(), text) == text


def test_one_child_does_many_requests(worker) -> None:
    with Child(worker("request = Text(text=f'{os.getpid()} {request.text}')")) as child:
        answers = [child.ask(Text(text=str(n)), Text).text for n in range(3)]
        assert answers == [f"{child.pid} {n}" for n in range(3)]


def test_progress_and_notes_come_in_order(worker) -> None:
    heard = []
    body = "[channel.progress(p, f) for p, f in (('a', 0.1), ('b', 0.2))]; channel.note('n\\n')"
    answer = ask(
        worker(body),
        on_progress=lambda *event: heard.append(event),
        on_note=heard.append,
    )
    assert (answer, heard) == ("hello", [("a", 0.1), ("b", 0.2), "n\n"])
    assert ask(worker(body)) == "hello"  # nobody listens


def test_events_of_several_threads_do_not_mix(worker) -> None:
    body = """
    def tell(): [channel.note('x' * 5000) for _ in range(50)]
    threads = [threading.Thread(target=tell) for _ in range(4)]
    [thread.start() for thread in threads]; [thread.join() for thread in threads]"""
    heard = []
    assert ask(worker(body), on_note=heard.append) == "hello"
    assert heard == ["x" * 5000] * 200


@pytest.mark.parametrize("name", ["MissingError", "BuildError", "UsageError", "RopeExportError"])
def test_a_failure_keeps_its_class_and_text(worker, name) -> None:
    with pytest.raises(RopeExportError, match=r"^no engine$") as raised:
        ask(worker(f"raise errors.{name}('no engine')"))
    assert type(raised.value) is getattr(errors, name)


def test_a_failure_that_is_made_of_more_than_a_text_is_one_of_its_base(worker) -> None:
    with pytest.raises(ExportError, match=r"^too long$") as raised:
        ask(worker("raise errors.AxisRangeError('too long', {'length': (1, 8)})"))
    assert type(raised.value) is ExportError


def test_a_workers_own_kind_of_error_is_one_of_its_base(worker) -> None:
    body = "class NoGpuError(errors.MissingError): pass\n    raise NoGpuError('no GPU')"
    with pytest.raises(MissingError, match=r"^no GPU$"):
        ask(worker(body))


def test_an_error_that_nobody_foresaw_is_named(worker) -> None:
    with pytest.raises(UnforeseenError, match=r"^ZeroDivisionError: division by zero\n") as raised:
        ask(worker("1 / 0"))
    assert raised.value.code == "RX003"
    (note,) = raised.value.__notes__
    assert note.startswith("Traceback")
    assert "1 / 0" in note


@pytest.mark.parametrize(("code", "given"), [("RX402", ", code='RX402'"), ("", "")])
def test_a_failure_keeps_its_code(worker, code: str, given: str) -> None:
    with pytest.raises(errors.BuildError, match=r"^odd$") as raised:
        ask(worker(f"raise errors.BuildError('odd'{given})"))
    assert raised.value.code == code


def test_a_failure_of_a_class_with_a_text_of_its_own_keeps_its_code(worker) -> None:
    with pytest.raises(errors.ParityError) as raised:
        ask(worker("raise errors.ChangedInputError('x')"))
    assert raised.value.code == "RX207"


def test_a_child_lives_on_after_a_failure(worker) -> None:
    with Child(worker("if request.text == 'bad': raise ValueError(request.text)")) as child:
        with pytest.raises(UnforeseenError, match="ValueError: bad"):
            child.ask(Text(text="bad"), Text)
        assert child.ask(Text(text="good"), Text).text == "good"


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_says_its_signal_and_the_last_words(worker, number) -> None:
    body = f"""
    print('a first line'); sys.stdout.flush()
    os.write(2, b'of C code\\n\\nlast\\n  words\\n'); os.kill(os.getpid(), {int(number)})"""
    with pytest.raises(CrashError) as raised:
        ask(worker(body))
    found = raised.value
    assert found.how.startswith(f"by {number.name}")
    assert found.said == "; it said: of C code / last / words"
    assert str(found) == f"its process ended {found.how}{found.said}"


def test_a_crash_without_a_word_and_an_exit_code(worker) -> None:
    with pytest.raises(CrashError, match=r"^its process ended with exit code 7, without a word$"):
        ask(worker("os._exit(7)"))


def test_a_crash_in_the_middle_of_an_event_is_a_crash_each_time_it_is_asked(worker) -> None:
    body = 'os.write(int(sys.argv[1]), b\'{"event":"res\'); os.kill(os.getpid(), 11)'
    with Child(worker(body)) as child:
        for _ in range(2):
            with pytest.raises(CrashError, match="by SIGSEGV, without a word"):
                child.ask(Text(), Text)


def test_a_worker_that_cannot_be_imported_says_why(worker, tmp_path) -> None:
    name = worker()
    (tmp_path / f"{name}.py").write_text("import nothing_of_that_name")
    with pytest.raises(CrashError, match=r"exit code 1; it said: .*nothing_of_that_name"):
        ask(name, "x" * (1 << 20))  # more than fits into the pipe that nobody reads


def test_a_child_that_closed_its_events_is_no_wait_for_ever(worker, monkeypatch) -> None:
    monkeypatch.setattr("ropeexport.child_process._PATIENCE_SECONDS", 0.2)
    with pytest.raises(CrashError, match="SIGKILL"):
        ask(worker("os.close(int(sys.argv[1])); time.sleep(600)"))


def test_what_is_printed_breaks_nothing(worker, tmp_path) -> None:
    name = worker("""
    print('{"event":"result","body":"{}"}', flush=True)
    os.write(1, b'no newline {'); os.system('echo of a program')""")
    path = tmp_path / f"{name}.py"
    path.write_text("import os; os.write(1, b'before it serves {')\n" + path.read_text())
    assert ask(name) == "hello"


def test_a_library_that_reads_standard_input_finds_nothing(worker) -> None:
    assert ask(worker("request = Text(text=repr(sys.stdin.read()))")) == "''"


def test_much_on_standard_error_neither_blocks_nor_fills_memory(worker) -> None:
    body = "[os.write(2, b'x' * (1 << 20)) for _ in range(64)]; os.write(2, b'\\nthe last')"
    with Child(worker(body)) as child:
        assert child.ask(Text(text="hello"), Text).text == "hello"
        assert len(child._tail._kept) <= 1 << 16
    with pytest.raises(CrashError) as raised:
        ask(worker(body + "; os.abort()"))
    assert raised.value.said.endswith("x / the last")
    assert len(raised.value.said) < 2000


@pytest.mark.parametrize("length", [1 << 16, (1 << 20) + 1, 1 << 24])
def test_a_request_larger_than_a_pipe(worker, length) -> None:
    text = "é" * length
    assert ask(worker(), text) == text


def test_a_child_is_ended_when_it_is_left_early(worker) -> None:
    class LeftError(Exception):
        pass

    def leave(text: str) -> None:
        raise LeftError

    start = time.monotonic()
    with pytest.raises(LeftError), Child(worker("channel.note(''); time.sleep(600)")) as child:
        child.ask(Text(), Text, on_note=leave)
    assert not state(child.pid)
    assert time.monotonic() - start < 60


def test_ctrl_c_ends_the_child_by_its_parent_alone(worker) -> None:
    """A terminal's Ctrl-C goes to both; the child's own end would be a crash."""
    body = "os.kill(os.getpid(), signal.SIGINT); channel.note('alive'); time.sleep(600)"

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Child(worker(body)) as child:
        child.ask(Text(), Text, on_note=interrupt)
    assert not state(child.pid)


def test_what_a_child_starts_hears_ctrl_c(worker) -> None:
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    body = (
        f"request = Text(text=subprocess.run([sys.executable, '-c', {code!r}], "
        "capture_output=True, text=True).stdout)"
    )
    assert ask(worker(body)) == "True\n"


PARENT = """
import sys
from pathlib import Path
from ropeexport.child_process import Child
from ropeexport.manifest import Record
class Text(Record):
    text: str = ""
def say(text):
    print(child.pid, flush=True)
try:
    with Child(sys.argv[1]) as child:
        child.ask(Text(), Text, on_note=say)
finally:
    Path(sys.argv[2]).write_text("cleaned up")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_parent_that_is_ended_ends_its_child(worker, tmp_path, number, stopped) -> None:
    name, note = worker("channel.note(''); time.sleep(600)"), tmp_path / "note"
    command = [sys.executable, "-c", HEARS_SIGNALS + PARENT, name, str(note)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        if stopped:
            os.kill(child, signal.SIGSTOP)
            wait_for(child, "T")
        parent.send_signal(number)
        ended(parent)
    wait_for(child, "", "Z")
    assert note.exists() == (number != signal.SIGKILL)


def test_a_signal_that_is_ignored_stays_ignored(worker) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with Child(worker()) as child:
            os.kill(os.getpid(), signal.SIGHUP)
            assert child.ask(Text(text="hello"), Text).text == "hello"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_child_whose_parent_ended_before_it_listened_ends(worker) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-P", "-m", worker(), str(writing), "1"]  # of another parent
    done = subprocess.run(command, pass_fds=(writing,), stdin=subprocess.DEVNULL, check=False)
    os.close(reading)
    os.close(writing)
    assert done.returncode == errors.EXIT_FAILURE


def test_a_child_waits_and_goes_on(worker) -> None:
    with Child(worker()) as child:
        assert child.ask(Text(text="a"), Text).text == "a"
        child.pause()
        wait_for(child.pid, "T")
        child.resume()
        assert child.ask(Text(text="b"), Text).text == "b"
        child.pause()
    assert not state(child.pid)


def test_the_current_folder_is_not_on_a_childs_path(worker, tmp_path, monkeypatch) -> None:
    name = worker("import json; request = Text(text=json.__file__)")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "json.py").write_text("raise SystemExit('of the current folder')")
    monkeypatch.chdir(elsewhere)
    assert not Path(ask(name)).is_relative_to(elsewhere)


def test_a_childs_environment_is_what_it_was_given(worker) -> None:
    module = worker("request = Text(text=os.environ.get('OF_A_CHILD', ''))")
    assert ask(module) == ""
    with Child(module, os.environ | {"OF_A_CHILD": "1"}) as child:
        assert child.ask(Text(), Text).text == "1"
