"""What a user names to be written: devices, pipes, links and ropeexport's own files are kept."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
from command_line import assert_one_line, ropeexport

from ropeexport import manifest, report, targets
from ropeexport.bench import records as bench_records
from ropeexport.errors import UsageError
from ropeexport.inference.files import check_output
from ropeexport.parity import records as parity_records
from ropeexport.trt.build import TIMING_CACHE_NAME
from ropeexport.trust.signing import SIGNATURE

pytestmark = pytest.mark.hostile


def write(path: Path, data: bytes = b"new") -> None:
    targets.check(path, "html")
    with targets.writing(path) as file:
        file.write(data)


def test_a_device_stays_one() -> None:
    for name in ("/dev/null", "/dev/zero"):
        before = os.stat(name)
        write(Path(name))
        assert os.path.samestat(os.stat(name), before)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe.npz", []
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    reader = Thread(target=lambda: read.append(os.fdopen(reading, "rb").read()))
    os.set_blocking(reading, True)
    with targets.writing(pipe) as file:
        reader.start()  # once there is a writer: it reads to the end
        file.write(b"arrays")
    reader.join(60)
    assert read == [b"arrays"]
    assert pipe.is_fifo()


def test_a_pipe_that_nobody_reads_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="got one that nobody reads"):
        write(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1"])
def test_standard_output_is_written_behind_what_was_printed(tmp_path: Path, name: str) -> None:
    code = (
        "from pathlib import Path; from ropeexport import targets\nprint('before')\n"
        f"with targets.writing(Path({name!r})) as file: file.write(b'text\\n')\nprint('after')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "before\ntext\nafter\n"
    with (tmp_path / "file").open("w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert (tmp_path / "file").read_text() == "before\ntext\nafter\n"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_the_file_behind_it_is_written(tmp_path: Path, there: bool) -> None:
    behind, link = tmp_path / "behind", tmp_path / "link"
    if there:
        behind.write_text("old")
    link.symlink_to(behind)
    write(link)
    assert link.is_symlink()
    assert behind.read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_kill_left_beside_a_target_goes(tmp_path: Path, caplog) -> None:
    code = (
        "from pathlib import Path; from ropeexport import targets; import os, sys\n"
        "with targets.writing(Path(sys.argv[1])) as file: os._exit(9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "page")]
    assert subprocess.run(command, check=False).returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    write(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert "cleared what a command that was killed has left there: .page." in caplog.text


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        with pytest.raises(UsageError, match="got a block device or a socket"):
            write(tmp_path / "socket")
    with pytest.raises(UsageError, match="expected a file to write, got a folder"):
        write(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"expected a folder, got the file .*file$"):
        write(tmp_path / "file" / "page.html")
    with pytest.raises(UsageError, match=r"--html: expected a path, got ''"):
        report(tmp_path, html="")


def test_a_file_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "page.html"
    path.touch()
    monkeypatch.setattr(os, "access", lambda place, _: place != path)  # root may write anything
    with pytest.raises(UsageError, match="may not be written"):
        write(path)


def test_the_own_names_are_those_of_the_stages() -> None:
    stages = {
        manifest.FILE_NAME, manifest.MODEL_NAME, manifest.ENGINE_NAME, parity_records.FILE_NAME,
        bench_records.FILE_NAME, bench_records.CHART_NAME, TIMING_CACHE_NAME, SIGNATURE,
    }  # fmt: skip
    assert stages <= targets.OWN_NAMES


@pytest.mark.parametrize("way", ["{0}/{1}", "{0}/../out/{1}", "link-{1}"])
@pytest.mark.parametrize("name", ["manifest.json", "parity.json", "model.onnx", "weights.bin"])
def test_own_files_are_no_targets(exported, tmp_path, monkeypatch, way: str, name: str) -> None:
    folder = exported()
    record = manifest.read(folder)
    weights = manifest.Weights(
        files=(manifest.WeightFile(file="weights.bin", size=1),), referenced_tensors=1,
        referenced_bytes=1,
    )  # fmt: skip
    manifest.write(folder, record.changed(model=record.model.changed(weights=weights)))
    monkeypatch.chdir(tmp_path)
    Path(f"link-{name}").symlink_to(folder / name)
    with pytest.raises(UsageError, match="one of the files that ropeexport itself keeps"):
        targets.check(Path(way.format(folder, name)), "html")


def test_what_a_command_reads_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "in.npz").touch()
    with pytest.raises(UsageError, match="a file that this command reads"):
        check_output(tmp_path / "in.npz", True, [f"q={tmp_path}/../{tmp_path.name}/in.npz"])


def test_commands_find_a_bad_target_before_they_run(exported, tmp_path: Path) -> None:
    folder = exported()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    page = tmp_path / "page"
    for words, text in (
        (("check", folder, "--html", folder / "manifest.json"), "ropeexport itself keeps"),
        (("check", folder, "--junit", page, "--html", page), "writes something else into"),
        (("check", folder, "--markdown", ""), "expected a path, got ''"),
        (("export", "flux-attention", "-o", ""), "expected a path, got ''"),
        (("build", ""), "expected a path, got ''"),
        (("export", "flux-attention", "-o", "/dev/null"), "expected a folder to write into"),
    ):
        done = ropeexport(*words)
        assert done.returncode == 2
        assert text in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not page.exists()


def test_a_report_is_kept_from_its_own_source(exported, tmp_path: Path) -> None:
    folder = exported(dtype="fp32")
    assert ropeexport("check", folder, "--cases", "1", "--html", "/dev/null").returncode == 0
    assert Path("/dev/null").is_char_device()
    other = (folder / "parity.json").rename(tmp_path / "saved")
    kept = other.read_bytes()
    done = ropeexport("report", other, "--html", other)
    assert_one_line(done, 2, "a file that this command reads")
    assert other.read_bytes() == kept
    piped = ropeexport("report", other, "--markdown", "/dev/stdout")
    assert piped.returncode == 0
    assert "onnxruntime" in piped.stdout


def test_a_manifest_of_somebody_elses_is_kept(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "an app"}')
    done = ropeexport("export", "flux-attention", "-o", tmp_path, "--heads", "2")
    assert_one_line(done, 2, "manifest.json exists already")
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("name", ["sub/x.html", "sub/new/x.html", "sub/../x.html"])
def test_nor_does_a_linked_folder_in_it(exported, tmp_path: Path, name: str) -> None:
    folder, elsewhere = exported(dtype="fp32"), tmp_path / "elsewhere" / "inside"
    (elsewhere / "new").mkdir(parents=True)
    (folder / "sub").symlink_to(elsewhere)
    with pytest.raises(UsageError, match="a link that leads out of its folder"):
        targets.check(folder / name, "html")
    targets.check(folder / ".." / "x.html", "html")  # beside it is nobody's but the user's
    (folder / "manifest.json").write_text('{"name": "a web page"}')
    (tmp_path / "elsewhere" / "inside").touch()
    targets.check(folder / name, "html")


def test_a_link_in_a_folder_of_anothers_does_not_lead_out(exported, tmp_path: Path) -> None:
    folder, mine = exported(dtype="fp32"), tmp_path / "mine.html"
    mine.write_text("mine")
    (folder / "report.html").symlink_to(mine)
    (folder / "page.html").symlink_to(folder / "other.html")
    with pytest.raises(UsageError, match="a link that leads out of its folder"):
        write(folder / "report.html")
    assert mine.read_text() == "mine"
    write(folder / "page.html")
    assert (folder / "other.html").read_bytes() == b"new"
