"""``check``, ``locate``, ``report`` and ``bench``, and ``inspect``, ``lint`` and ``doctor``.

How far an output folder is from what it was made of, what it costs, and what only looks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ropeexport.artifact import NO_TRUST, Artifact, Trust
from ropeexport.errors import MissingError, ParityError, UsageError, first_line
from ropeexport.given import check_text, path_if, path_of
from ropeexport.locking import locks
from ropeexport.machine import require as require_packages
from ropeexport.plain import shown

if TYPE_CHECKING:
    from torch import nn

    from ropeexport.bench.records import Bench
    from ropeexport.doctor import Diagnosis
    from ropeexport.lint.lint import Lint
    from ropeexport.models.pipelines import Adapt, Pipeline
    from ropeexport.models.sources import Module
    from ropeexport.onnx_files.inspection import Inspection
    from ropeexport.parity.contenders import Contender
    from ropeexport.parity.options import Options
    from ropeexport.parity.records import Report
    from ropeexport.parity.running import Listener


def check(  # noqa: PLR0913  (a user's choices, all but two by keyword)
    path: str | Path,
    candidate: str | Path | None = None,
    *,
    module: Module | None = None,
    pipeline: Pipeline | None = None,
    cases: int | None = None,
    seed: int = 0,
    lengths: int | Sequence[int] = (),
    require: str | Sequence[str] = (),
    runtimes: str | Sequence[str] = (),
    atol: float | None = None,
    rtol: float | None = None,
    tokens: int | None = None,
    locate: bool = False,
    trust: bool | str | Path = False,
    trust_remote_code: bool = False,
    html: str | Path | None = None,
    markdown: str | Path | None = None,
    junit: str | Path | None = None,
    listener: Listener | None = None,
) -> Report:
    """Compare every runtime of an output folder with the float64 oracle; write ``parity.json``.

    A folder of :func:`ropeexport.fuse` is held to the ONNX file that it is made of.

    Parameters
    ----------
    path : path
        An output folder; with ``candidate``, also an ONNX file.
    candidate : path
        An ONNX file or a folder of one, or an ``.npz`` of saved inputs and outputs, to compare with
        ``path`` instead; this needs no torch and writes nothing by itself.
    module : nn.Module, Example, callable or str
        What the folder was exported from, where that is your own code: the module that you hold
        (compared as it is, and left as it was), or a factory or its reference ``FILE.py:NAME``,
        whose weights are taken from the file.
    pipeline : callable, str or tuple
        A factory that returns ``(pipeline, calls)``, its reference ``FILE.py:NAME``, or that pair:
        a pipeline of diffusers, and a list of dicts, each the arguments of one call.  It is run
        with the export in the place of the component that was exported, in each runtime, and
        must give the same pictures; they are written into ``path/pipeline``.  The pair is left as
        it was.  Cases are run as well where ``module``, ``cases`` or ``lengths`` asks for them.
    cases : int
        How many cases; by default those that are designed.
    seed : int
        Of the inputs.
    lengths : int or sequence of int
        Lengths to check, whatever they cost.
    require : str or sequence of str
        Runtimes that must have run.
    runtimes : str or sequence of str
        Only these, such as ``onnxruntime``, ``openvino`` or ``onnxruntime:cuda``; by default all.
    atol, rtol : float
        Your own bound in place of the derived ones.
    tokens : int
        Of an export with a cache: how many tokens of ``generate()`` each generated text has; 32
        by default.
    locate : bool
        On a failure, find the first tensor that departs, see :func:`ropeexport.locate`.
    trust : bool or path
        Load an engine that this user has neither built nor trusted, or one whose folder the public
        key in a file has signed; without it that runtime is SKIPPED, see :func:`ropeexport.load`.
    trust_remote_code : bool
        Let code run that the folder's config of transformers brings along.
    html, markdown, junit : path
        Further forms of the report to write.
    listener : Listener
        Told of each stage and case.

    Returns
    -------
    Report
        With a verdict; a difference is no error.

    Raises
    ------
    MissingError
        Where a runtime that is required could not run.
    NotComparableError
        Where a file gives nothing to compare with: random numbers, operators without a reference.
    RopeExportError
        Where no run can be set up: no manifest, no model, a module that cannot be rebuilt.

    Examples
    --------
    >>> import torch, ropeexport
    >>> class Attention(torch.nn.Module):
    ...     def forward(self, q, pe):
    ...         return ropeexport.attention(q, q, q, pe)
    >>> attention = Attention()
    >>> kwargs = {"q": torch.zeros(1, 2, 8, 16), "pe": torch.zeros(1, 1, 8, 8, 2, 2)}
    >>> axes = {"q": {0: "batch", 2: "length"}, "pe": {2: "length"}}
    >>> made = ropeexport.export(attention, kwargs, "out", dynamic_axes=axes)
    >>> report = ropeexport.check("out", module=attention, cases=4)
    >>> report.verdict
    'PASS'
    >>> {runtime.name: runtime.status for runtime in report.runtimes}["onnxruntime"]
    'PASS'
    """
    from ropeexport.parity.options import several

    require = several("require", require, str)
    report, unwritten = run_check(
        path, candidate, module=module, pipeline=pipeline, cases=cases, seed=seed,
        lengths=lengths, require=require, runtimes=runtimes, atol=atol, rtol=rtol, tokens=tokens,
        locate=locate, trust=Trust.of(trust, trust_remote_code), html=html, markdown=markdown,
        junit=junit, listener=listener,
    )  # fmt: skip
    unwritten.raise_or_warn()
    absent = absent_of(report, require)
    if absent:
        raise MissingError("; ".join(absent), code="RX708")
    return report


@dataclass
class Unwritten:
    """What could not be written of a result that is there all the same: a line each.

    ``records`` are those of the output folder, which may be read-only; ``forms`` were asked for.
    """

    records: list[str] = field(default_factory=list)
    forms: list[str] = field(default_factory=list)

    @contextmanager
    def keeping(self, lines: list[str], path: Path) -> Iterator[None]:
        """Keep an error of writing a path as one of those lines."""
        try:
            yield
        except UsageError as error:  # a folder lies in a file's place
            lines.append(str(error))
        except OSError as error:
            lines.append(f"{path}: not written: {error.strerror or first_line(error)}")

    def raise_or_warn(self) -> None:
        """Raise for what was asked for; warn of records, without which the result stands."""
        if self.forms:
            raise ParityError("; ".join(self.forms), code="RX710")
        for line in self.records:
            warnings.warn(shown(line), stacklevel=3)


def run_check(
    path: str | Path,
    candidate: str | Path | None = None,
    *,
    module: Module | None = None,
    pipeline: Pipeline | None = None,
    locate: bool = False,
    trust: Trust = NO_TRUST,
    listener: Listener | None = None,
    **choices: Any,
) -> tuple[Report, Unwritten]:
    """Return the report of :func:`check`, also where a runtime that is required did not run.

    Where it, or a form of it, cannot be written, that is returned too.
    """
    from ropeexport.parity.options import Options, several
    from ropeexport.parity.running import Silent

    if choices["html"] is not None:
        require_packages("jinja2", "matplotlib")
    check_text("--module", module)
    check_text("--pipeline", pipeline)
    forms = {name: choices[name] for name in ("html", "markdown", "junit")}
    references = [ref.rpartition(":")[0] for ref in (module, pipeline) if isinstance(ref, str)]
    folder = path_of("path", path)
    others = [path_of("candidate", candidate)] if candidate is not None else []
    forms = _checked(forms, folder, *others, *references)
    options = Options(
        seed=choices["seed"],
        count=choices["cases"],
        lengths=several("lengths", choices["lengths"], int),
        atol=choices["atol"],
        rtol=choices["rtol"],
        tokens=choices["tokens"],
        runtimes=several("runtimes", choices["runtimes"], str),
        required=several("require", choices["require"], str),
    )
    heard, unwritten = listener or Silent(), Unwritten()
    if candidate is not None:
        given = {
            "module": module,
            "pipeline": pipeline,
            "require": options.required,
            "runtime": options.runtimes,
            "tokens": options.tokens,
        }
        named = next((name for name, value in given.items() if value), None)
        if named is not None:
            raise UsageError(f"--{named}: not for a comparison of files", code="RX108")
        report = _check_files(folder, path_of("candidate", candidate), options, locate, heard)
    else:
        report = _check_folder(folder, trust, module, pipeline, options, locate, heard, unwritten)
    if locate and report.verdict == "FAIL":
        count = len(report.locations)
        plural = "s" * (count != 1)
        heard.stage("locate", f"{count} runtime{plural} run again, tensor by tensor")
    for name, target in forms.items():
        if target is not None:
            with unwritten.keeping(unwritten.forms, target):
                _write(report, folder, {name: target})
    return report, unwritten


def locate(
    path: str | Path,
    candidate: str | Path | None = None,
    *,
    report: Report | None = None,
    module: Module | None = None,
    **options: Any,
) -> Report:
    """Find the first tensor that departs where a runtime fails, and the code that made it.

    Parameters
    ----------
    path, candidate, module
        As for :func:`ropeexport.check`; both files are ONNX.
    report : Report
        What :func:`ropeexport.check` found; without it, that runs first.
    **options
        Of :func:`ropeexport.check`, for that run.

    Returns
    -------
    Report
        With a location for each runtime that failed in it.

    Raises
    ------
    RopeExportError
        As :func:`ropeexport.check`, or where nothing lies between inputs and outputs to compare.

    Examples
    --------
    >>> import onnx, ropeexport
    >>> made = ropeexport.export("flux-attention", out="out", heads=2, head_dim=16, length=32)
    >>> model = onnx.load("out/model.onnx")
    >>> rope = next(node for node in model.graph.node if node.op_type == "ApplyRope")
    >>> rope.input[0] = "k"  # and not q
    >>> onnx.save(model, "out/model.onnx")
    >>> found = ropeexport.locate("out", cases=2)
    >>> found.verdict, found.locations[0].tensor, found.locations[0].op
    ('FAIL', 'q_rotated_0', 'ApplyRope')
    """
    if report is None:
        return check(path, candidate, module=module, locate=True, **options)
    if candidate is not None:
        from ropeexport.locate.taps import check_shared, locate_files
        from ropeexport.parity.onnx_reference import onnx_of

        first, second = path_of("path", path), path_of("candidate", candidate)
        check_shared(first, second)
        return locate_files(onnx_of(first), onnx_of(second), report)
    trust = Trust.of(options.get("trust", False), options.get("trust_remote_code", False))
    return _locate_in_folder(Artifact.read(path_of("path", path), trust), module, report)


def report(
    path: str | Path,
    *,
    html: str | Path | None = None,
    markdown: str | Path | None = None,
    junit: str | Path | None = None,
) -> Report:
    """Read a parity run again, and write it in further forms; nothing is run.

    Parameters
    ----------
    path : path
        A ``parity.json``, or the output folder that holds it.
    html, markdown, junit : path
        Files to write: one self-contained page, text for a pull request, JUnit XML.

    Raises
    ------
    ParityError
        Where there is no such report.

    Examples
    --------
    >>> import ropeexport
    >>> made = ropeexport.export("flux-attention", out="out", heads=2, head_dim=16, length=32)
    >>> checked = made.check(cases=2)
    >>> ropeexport.report("out", markdown="parity.md") == checked
    True
    """
    if html is not None:
        require_packages("jinja2", "matplotlib")
    from ropeexport.report import view

    folder = path_of("path", path)
    forms = _checked({"html": html, "markdown": markdown, "junit": junit}, folder)
    found = view.read(folder)
    _write(found, folder, forms)
    return found


def bench(  # noqa: PLR0913  (a user's choices, all but the first by keyword)
    path: str | Path,
    *,
    against: str | Sequence[str] | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    lengths: int | Sequence[int] = (),
    module: Module | None = None,
    rounds: int = 7,
    repeats: int = 5,
    threads: int | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    say: Callable[[str, str, bool], None] = lambda name, text, ok: None,
) -> Bench:
    """Measure an output folder against what you would run instead; write its records and chart.

    Parameters
    ----------
    path : path
        An output folder of :func:`ropeexport.export`, with or without an engine; ``bench.json`` and
        ``bench.png`` are written into it.
    against : str or sequence of str
        Contenders by name; by default all.
    device : str
        ``cpu`` or ``cuda``; by default ``cuda`` where torch sees a GPU.
    lengths : int or sequence of int
        By default the profile's optimum.
    module : nn.Module, Example, callable or str
        What the folder was exported from, where that is your own code, as for
        :func:`ropeexport.check`.  Contenders run in processes of their own: what you hold is
        written for them, its weights too, into a temporary folder; a factory's reference
        ``FILE.py:NAME`` needs no such copy.
    rounds, repeats : int
        Turns, and runs in a turn.
    threads : int
        By default the number of cores.
    seed : int
        Of the inputs.
    trust_remote_code : bool
        As for :func:`ropeexport.check`.  The folder's own engine is not loaded.
    say : callable
        Called with each contender's name, a text, and whether it runs.

    Returns
    -------
    Bench
        Every contender: TIMED, or WRONG, SKIPPED or FAILED with its reason.

    Raises
    ------
    RopeExportError
        Where no run can be set up: no manifest, a module that cannot be rebuilt or does not pickle,
        a length that the export is not for.

    Examples
    --------
    >>> import ropeexport
    >>> made = ropeexport.export("flux-attention", out="out", heads=2, head_dim=16, length=32)
    >>> found = ropeexport.bench("out", against=["eager"], device="cpu", rounds=1, repeats=1)
    >>> {record.name: record.status for record in found.contenders}
    {'eager': 'TIMED', 'ropeexport': 'TIMED'}
    """
    found, unwritten = run_bench(
        path, against=against, device=device, lengths=lengths, module=module, rounds=rounds,
        repeats=repeats, threads=threads, seed=seed, trust_remote_code=trust_remote_code, say=say,
    )  # fmt: skip
    unwritten.raise_or_warn()
    return found


@locks("path", "bench")
def run_bench(
    path: str | Path,
    *,
    against: str | Sequence[str] | None = None,
    lengths: int | Sequence[int] = (),
    module: Module | None = None,
    threads: int | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str, str, bool], None],
    **choices: Any,
) -> tuple[Bench, Unwritten]:
    """Return the records of :func:`bench`, and what of them could not be written."""
    require_packages("torch", "onnxruntime", "matplotlib")
    from ropeexport import atomic
    from ropeexport.bench import show
    from ropeexport.bench.bench import BenchOptions
    from ropeexport.bench.bench import bench as run
    from ropeexport.bench.records import CHART_NAME, FILE_NAME
    from ropeexport.parity.options import several

    check_text("--module", module)
    options = BenchOptions(lengths=several("lengths", lengths, int), module=module, **choices)
    if against:
        options = replace(options, against=several("against", against, str))
    options = options if threads is None else replace(options, threads=threads)
    artifact = Artifact.read(path_of("path", path), Trust(code=trust_remote_code))
    found = run(artifact, options, say)
    artifact.require_current()
    unwritten = Unwritten()
    with (
        unwritten.keeping(unwritten.records, artifact.folder / FILE_NAME),
        atomic.together(artifact.folder, last=FILE_NAME) as files,
    ):
        atomic.write_text(files.place / FILE_NAME, found.model_dump_json(indent=1) + "\n")
        atomic.write_bytes(files.place / CHART_NAME, show.chart(found))
    return found, unwritten


def inspect(path: str | Path) -> Inspection:
    """Return the rotary ops of a file, and what implements each in the engine.

    Parameters
    ----------
    path : path
        An output folder, an ONNX file, or an engine with its manifest beside it.

    Raises
    ------
    ManifestError, ModelFileError
        Where there is no such file, or it cannot be read.

    Examples
    --------
    >>> import ropeexport
    >>> made = ropeexport.export("flux-attention", out="out", heads=2, head_dim=16, length=32)
    >>> found = ropeexport.inspect("out")
    >>> [rope.op for rope in found.ropes], found.engine
    (['ropeexport::ApplyRope'], None)
    """
    from ropeexport.onnx_files.inspection import inspect as run
    from ropeexport.onnx_files.inspection import subject_of

    return run(subject_of(path_of("path", path)))


def lint(path: str | Path) -> Lint:
    """Hold a file to the rules of ``docs/lint.md``: what costs accuracy or speed.

    Parameters
    ----------
    path : path
        As for :func:`ropeexport.inspect`.

    Raises
    ------
    ManifestError, ModelFileError
        As :func:`ropeexport.inspect`.

    Examples
    --------
    >>> import ropeexport
    >>> made = ropeexport.export("flux-attention", out="out", heads=2, head_dim=16, length=32)
    >>> found = ropeexport.lint("out")
    >>> found.errors
    ()
    """
    from ropeexport.lint.lint import lint as run
    from ropeexport.onnx_files.inspection import subject_of

    return run(subject_of(path_of("path", path)))


def doctor() -> Diagnosis:
    """Return what this machine has of what ropeexport needs, and the command that brings the rest.

    Nothing that is absent or broken raises.

    Examples
    --------
    >>> import ropeexport
    >>> found = ropeexport.doctor()
    >>> found.items[0].name
    'python'
    """
    from ropeexport.doctor import examine

    return examine()


def absent_of(report: Report, required: Sequence[str]) -> list[str]:
    """Return a line for each runtime that was required and could not run."""
    runtimes = {runtime.name: runtime for runtime in report.runtimes}
    unknown = [name for name in required if name not in runtimes]
    if unknown:
        raise UsageError(
            f"require: expected some of {', '.join(runtimes)}, got {unknown[0]!r}", code="RX110"
        )
    return [
        f"{name} was required: SKIPPED: {runtimes[name].reason}"
        for name in required
        if runtimes[name].status == "SKIPPED"
    ]


@locks("folder", "check")
def _check_folder(
    folder: Path,
    trust: Trust,
    module: Module | None,
    pipeline: Pipeline | None,
    options: Options,
    locating: bool,
    listener: Listener,
    unwritten: Unwritten,
) -> Report:
    from ropeexport.parity.check import check as run
    from ropeexport.parity.pipeline_report import write
    from ropeexport.parity.records import FILE_NAME

    if folder.suffix == ".onnx":
        raise UsageError(
            f"{folder}: expected a second file, .onnx or .npz, to compare with it", code="RX109"
        )
    artifact = Artifact.read(folder, trust)
    if artifact.manifest.source.kind != "onnx" or pipeline is not None:
        require_packages("torch")
    if locating:
        _refuse_to_locate(artifact)
    has_cases = pipeline is None or module is not None or options.asks_for_cases
    if locating and not has_cases:
        raise UsageError(
            "--locate: looks for the tensor in a case; add --cases, or --module", code="RX701"
        )
    found = run(artifact, module, options, listener) if has_cases else None
    if locating and found is not None and found.verdict == "FAIL":
        found = _locate_in_folder(artifact, module, found)
    pictures: Mapping[str, bytes] = {}
    if pipeline is not None:
        found, pictures = _with_pipeline(artifact, found, pipeline, module, options, listener)
    assert found is not None
    artifact.require_current()
    with unwritten.keeping(unwritten.records, folder / FILE_NAME):
        write(folder, found, pictures)
    return found


def _with_pipeline(
    artifact: Artifact,
    report: Report | None,
    pipeline: Pipeline,
    module: Module | None,
    options: Options,
    listener: Listener,
) -> tuple[Report, Mapping[str, bytes]]:
    """Return a report with a pipeline in it, and its pictures."""
    from ropeexport.parity.pipeline import check_pipeline
    from ropeexport.parity.running import begun

    artifact.check_weights()
    command = options.command(artifact.folder, module=module, pipeline=pipeline)
    before = report or begun(artifact.manifest, artifact.model_sha256, options, command)
    found = check_pipeline(artifact, pipeline, options, listener, partial(_exchanged, artifact))
    return found.joined(before).changed(command=command), found.files


def _exchanged(
    artifact: Artifact, contender: Contender, component: nn.Module, adapt: Adapt | None
) -> nn.Module:
    """Return a runtime in a component's place, as a user has it there."""
    from ropeexport.inference.choosing import Chosen
    from ropeexport.inference.loaded import LoadedModel
    from ropeexport.runners.registry import choice_of

    assert contender.runner is not None
    chosen = Chosen(choice_of(contender.name), contender.runner, "")
    return LoadedModel(artifact, chosen, ExitStack()).as_module(like=component, adapt=adapt)


def _check_files(
    path: Path, candidate: Path, options: Options, locating: bool, listener: Listener
) -> Report:
    from ropeexport.locate.taps import check_shared, locate_files
    from ropeexport.parity.check import check_files
    from ropeexport.parity.onnx_reference import onnx_of

    if locating:  # what is impossible is said before the comparison's minutes
        check_shared(path, candidate)
    found = check_files(path, candidate, options, listener)
    if locating and found.verdict == "FAIL":
        found = locate_files(onnx_of(path), onnx_of(candidate), found)
    return found


def _locate_in_folder(artifact: Artifact, module: Module | None, report: Report) -> Report:
    _refuse_to_locate(artifact)
    if artifact.manifest.source.kind == "onnx":
        from ropeexport.locate.taps import locate_files

        return locate_files(artifact.original, artifact.file, report, "onnxruntime")
    from ropeexport.locate.locate import locate as run

    return run(artifact, report, module)


def _refuse_to_locate(artifact: Artifact) -> None:
    """Raise where a case is many calls, of which no single one can be run again."""
    if artifact.manifest.cache is not None:
        raise UsageError(
            f"--locate: {artifact.folder} was exported with a cache, and a case is a text that is "
            "read in many calls: expected an export of one call; export the model without --cache "
            "to locate a fault in its layers",
            code="RX611",
        )


def _checked(forms: Mapping[str, str | Path | None], *read: str | Path) -> dict[str, Path]:
    """Return the forms that are asked for, once each may be written where it is to be."""
    from ropeexport import targets

    given = {name: path_if(f"--{name}", target) for name, target in forms.items()}
    wanted = {name: target for name, target in given.items() if target is not None}
    others = [Path(each) for each in read]
    for name, target in wanted.items():
        targets.check(target, name, *others)
        others.append(target)
    return wanted


def _write(report: Report, path: Path, forms: Mapping[str, Path]) -> None:
    """Write every form that was asked for, with the benchmark of the folder."""
    from importlib import import_module

    from ropeexport import targets

    for name, target in forms.items():
        render = import_module(f"ropeexport.report.{name}").render
        folder = path if path.is_dir() else path.parent
        more = (_speed(folder), _pictures(folder, report)) if name == "html" else ()
        text = render(report, *more)
        with targets.writing(target) as file:
            file.write(text.encode())


def _speed(folder: Path) -> bytes | None:
    """Return the chart of the benchmark of a folder, where there is one."""
    from ropeexport.bench import show
    from ropeexport.bench.records import FILE_NAME, SCHEMA_VERSION, Bench
    from ropeexport.errors import ParityError
    from ropeexport.manifest import parsed

    path = folder / FILE_NAME
    if not path.exists():
        return None
    found = parsed(path, Bench, ParityError, SCHEMA_VERSION, "bench")
    return show.chart(found) if any(group.timings for group in found.groups) else None


def _pictures(folder: Path, report: Report) -> dict[str, bytes]:
    """Return the pictures of a report that lie beside it, by name."""
    from ropeexport.links import is_own
    from ropeexport.parity.pipeline_report import FOLDER
    from ropeexport.report.view import picture_files

    # a report and its folder may come from anywhere, and a page goes on to others: what is no
    # file of the folder is left out
    names = (name for name in picture_files(report) if Path(name).name == name)
    places = {name: folder / FOLDER / name for name in names}
    return {
        name: place.read_bytes()
        for name, place in places.items()
        if place.is_file() and is_own(place, folder)
    }
