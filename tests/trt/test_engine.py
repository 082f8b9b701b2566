"""What TensorRT refuses while it builds: an error with its cause, or a build that goes on."""

from __future__ import annotations

import hashlib
import io
import json
from types import SimpleNamespace

import pytest

from ropeexport import atomic
from ropeexport.child_process import Channel
from ropeexport.errors import BuildError
from ropeexport.manifest import Profile
from ropeexport.trt import engine, flavour, reporting
from ropeexport.trt.engine import Parsed
from ropeexport.trt.reporting import Journal
from ropeexport.trust import known

KEEPS = SimpleNamespace(capabilities=SimpleNamespace(timing_cache=True))


class Config:
    """A configuration that refuses what was measured elsewhere, and perhaps all of it."""

    def __init__(self, journal, *, makes=True, takes=True, gives: bytes | None = b"new") -> None:
        self.journal, self.makes, self.takes, self.gives = journal, makes, takes, gives
        self.cache: SimpleNamespace | None = None

    def create_timing_cache(self, content):
        if content == b"damaged":
            self.journal.errors.append("cannot deserialize the timing cache")
        whole = self.makes and content != b"damaged"
        return SimpleNamespace(content=content, serialize=lambda: self.gives) if whole else None

    def set_timing_cache(self, cache, ignore_mismatch):
        assert cache is not None, "the bindings raise TypeError"
        taken = self.takes and cache.content != b"another GPU's"
        if taken:
            self.cache = cache
        else:
            self.journal.errors.append("the timing cache is of another device")
        return taken

    def get_timing_cache(self):
        return self.cache


@pytest.fixture
def journal():
    return SimpleNamespace(errors=[])


@pytest.mark.parametrize(
    ("former", "used"), [(b"good", b"good"), (b"damaged", b""), (b"another GPU's", b"")]
)
def test_a_timing_cache_that_is_refused_is_begun_anew(tmp_path, journal, former, used) -> None:
    (tmp_path / "timing.cache").write_bytes(former)
    known.remember(hashlib.sha256(former).hexdigest(), "measured: here")
    config = Config(journal)
    cache = engine.use_timing_cache(KEEPS, config, tmp_path / "timing.cache", journal)
    assert cache is config.cache
    assert cache.content == used
    assert not journal.errors  # or they would be the cause of a later failure


def test_a_timing_cache_of_somebody_elses_is_not_read(tmp_path, journal) -> None:
    path = tmp_path / "timing.cache"
    path.write_bytes(b"theirs")
    config = Config(journal)
    assert engine.use_timing_cache(KEEPS, config, path, journal).content == b""
    assert kept(path, config) == []
    assert engine.use_timing_cache(KEEPS, config, path, journal).content == b"new"


@pytest.mark.parametrize("options", [{"makes": False}, {"takes": False}])
def test_without_any_timing_cache_the_build_goes_on(tmp_path, journal, options) -> None:
    config = Config(journal, **options)
    assert engine.use_timing_cache(KEEPS, config, tmp_path / "timing.cache", journal) is None
    assert not journal.errors


def kept(path, config) -> list[str]:
    """Keep what a configuration has measured, and return what is said of it."""
    events = io.StringIO()
    engine.keep_timing_cache(config, path, Channel(events))
    return [json.loads(line)["text"] for line in events.getvalue().splitlines()]


def test_what_was_measured_is_kept(tmp_path, journal) -> None:
    config = Config(journal)
    config.set_timing_cache(config.create_timing_cache(b""), False)
    assert kept(tmp_path / "timing.cache", config) == []
    assert (tmp_path / "timing.cache").read_bytes() == b"new"


@pytest.mark.parametrize("attached", [True, False])
def test_a_timing_cache_that_is_not_given_is_a_note(tmp_path, journal, attached) -> None:
    config = Config(journal, gives=None)
    if attached:
        config.set_timing_cache(config.create_timing_cache(b""), False)
    (note,) = kept(tmp_path / "timing.cache", config)
    assert note.endswith("what was measured is not kept: TensorRT gives no timing cache")
    assert not (tmp_path / "timing.cache").exists()


def test_a_full_disk_is_a_note(tmp_path, journal, monkeypatch) -> None:
    def full(path, data):
        raise OSError(28, "No space left on device")

    config = Config(journal)
    config.set_timing_cache(config.create_timing_cache(b""), False)
    monkeypatch.setattr(atomic, "write_bytes", full)
    (note,) = kept(tmp_path / "timing.cache", config)
    assert note.endswith("is not kept: No space left on device")


def test_no_builder_says_what_tensorrt_said() -> None:
    class Module:
        class ILogger:
            INFO, WARNING, ERROR, INTERNAL_ERROR = range(4)

        @staticmethod
        def Builder(logger):  # noqa: N802 - TensorRT's name
            logger.log(Module.ILogger.ERROR, "[a.cpp::f::1] Error Code 1: CUDA driver too old")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    chosen = SimpleNamespace(name="tensorrt", version="10.14", module=Module)
    with pytest.raises(BuildError, match=r"tensorrt 10\.14 makes no builder .*: CUDA driver too"):
        reporting.make_builder(chosen, Journal(chosen))


@pytest.mark.trt
@pytest.mark.parametrize("smallest", [(9, 2), (1, 2, 3), (2**31, 2), (1,) * 9])
def test_a_profile_that_is_refused_names_the_cause(smallest) -> None:
    chosen = flavour.load("tensorrt-rtx")
    journal = Journal(chosen)
    builder = reporting.make_builder(chosen, journal)
    network = builder.create_network(0)
    network.add_input("x", chosen.module.DataType.FLOAT, (-1, 2))
    profile = Profile(min={"x": smallest}, opt={"x": (4, 2)}, max={"x": (8, 2)})
    config = builder.create_builder_config()
    parsed = Parsed(builder, network, None)
    with pytest.raises(BuildError, match=r"refuses the (profile|shapes)") as error:
        engine.add_profile(chosen, parsed, config, profile, journal)
    assert "no reason" not in str(error.value)
