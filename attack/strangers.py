"""A stranger's folder, and code beside the user: nothing of it runs, and the message says why."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attack.finding import Finding, Tally
from attack.trial import complaints
from attack.worker import Worker, give

MARKER = "ran"
PATIENCE = 120.0


@dataclass(frozen=True)
class Case:
    """A folder as somebody sends it; ``says`` is what the message must have, a pattern.

    Without ``says`` the command does its work, and only must not run what lies beside it.
    """

    name: str
    command: str
    bases: tuple[str, ...]
    prepare: Callable[[Path, Path], None]
    says: str = ""
    alone: bool = False  # an interpreter of its own: what it imports first matters
    seconds: float = 0.0  # it is ended after so many: a long one, of which the start matters


def _code(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()\n"


def _auto_map(base: str) -> Callable[[Path, Path], None]:
    def prepare(work: Path, marker: Path) -> None:
        path = work / base / "config.json"
        config = json.loads(path.read_text())
        config["auto_map"] = {
            "AutoConfig": "stranger.Config",
            "AutoModelForCausalLM": "stranger.Model",
            "AutoModel": "stranger.Model",
        }
        config["model_type"] = "stranger"
        path.write_text(json.dumps(config))
        classes = "from transformers import PretrainedConfig as Config, PreTrainedModel as Model\n"
        (work / base / "stranger.py").write_text(_code(marker) + classes)

    return prepare


def _modules(*names: str) -> Callable[[Path, Path], None]:
    """Put modules of libraries' names into the current folder and into the export's."""

    def prepare(work: Path, marker: Path) -> None:
        for name in names:
            for folder in (work, *(p for p in work.iterdir() if p.is_dir())):
                (folder / f"{name}.py").write_text(_code(marker))

    return prepare


def _manifest(base: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path, Path], None]:
    def prepare(work: Path, marker: Path) -> None:
        path = work / base / "manifest.json"
        fields = json.loads(path.read_text())
        change(fields)
        path.write_text(json.dumps(fields).replace("MARKER", str(marker)))

    return prepare


def _outside(base: str, name: str, where: str) -> Callable[[Path, Path], None]:
    """Move a file out of the folder, and let the manifest name it there; ``link``: link to it."""

    def prepare(work: Path, marker: Path) -> None:
        kind = "engine" if name.endswith(".engine") else "model"
        outside = work / "outside"
        outside.mkdir()
        shutil.move(work / base / name, outside / name)
        place = {"absolute": str(outside / name), "up": f"../outside/{name}"}.get(where, name)
        if where == "link":
            (work / base / name).symlink_to(outside / name)
        _manifest(base, lambda fields: fields[kind].update(file=place))(work, marker)

    return prepare


def _plugin(work: Path, marker: Path) -> None:
    """Name a library of the sender's as the engine's plugin; it writes the marker when loaded."""
    source, library = work / "plugin.c", work / "engine/libropeexport_plugin.so"
    source.write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) void run() {{ fopen("{marker}", "w"); }}'
    )
    if shutil.which("cc"):
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    else:
        library.write_bytes(b"\x7fELF")
    sha = hashlib.sha256(library.read_bytes()).hexdigest()

    def change(fields: dict[str, Any]) -> None:
        fields["engine"]["plugin"] = {
            "name": "ApplyRope", "version": "1", "namespace": "ropeexport",
            "file": library.name, "sha256": sha, "embedded": False,
        }  # fmt: skip
        fields["engine"]["ropes"] = dict.fromkeys(fields["engine"]["ropes"], "plugin")

    _manifest("engine", change)(work, marker)


def _strange_engine(work: Path, marker: Path) -> None:
    """Let the engine be one that this machine did not build: it comes with its manifest."""


def _factory_in_manifest(work: Path, marker: Path) -> None:
    (work / "flux/stranger.py").write_text(_code(marker) + "def factory(): ...\n")
    source = {"kind": "factory", "name": "flux/stranger.py:factory", "options": {}}
    _manifest("flux", lambda fields: fields.update(source=source))(work, marker)


def _class_in_manifest(work: Path, marker: Path) -> None:
    (work / "stranger.py").write_text(_code(marker))
    named = {"kind": "class", "value": "stranger:Output", "keys": ["out"],
             "parts": [{"kind": "output", "value": "out"}]}  # fmt: skip

    def change(fields: dict[str, Any]) -> None:
        fields.setdefault("forward", {})["returns_class"] = named

    _manifest("flux", change)(work, marker)


def _names(base: str) -> Callable[[Path, Path], None]:
    """Give an output of a graph and of its manifest a name of escapes, markup and tags."""

    def prepare(work: Path, marker: Path) -> None:
        import onnx

        hostile = "\x1b[2J[/y]<script>x</script>```"
        path = work / base / "model.onnx"
        model = onnx.load(path)
        for node in model.graph.node:
            node.output[:] = [hostile if name == "out" else name for name in node.output]
        model.graph.output[0].name = hostile
        onnx.save(model, path)

        def change(fields: dict[str, Any]) -> None:
            fields["model"]["outputs"][0]["name"] = hostile
            fields["model"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()

        _manifest(base, change)(work, marker)

    return prepare


def _pickle(work: Path, marker: Path) -> None:
    """Send arrays whose pickles run code."""
    import numpy as np

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(marker), "w")

    np.savez(work / "flux/in.npz", q=np.array([Runs()], dtype=object))


def _changed(work: Path, marker: Path) -> None:
    """Change one byte of a signed file, and its hash in the manifest, as a thief of it can."""
    path = work / "signed/folder/model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    _manifest("signed/folder", lambda fields: fields["model"].update(sha256=sha))(work, marker)


_OUT = r"outside|within|leads out|in the folder|stay"
_USUAL = ("numpy", "pip", "onnxruntime", "torch", "sitecustomize", "usercustomize", "tensorrt",
          "tensorrt_rtx", "pydantic", "cloudpickle", "transformers", "json", "ropeexport",
          )  # fmt: skip
CASES = (
    Case("config with code", "export transformers:llama -o new", ("llama",), _auto_map("llama"),
         r"auto_map|trust-remote-code"),
    Case("config with code, cached", "export transformers:llama --cache grow -o new", ("llama",),
         _auto_map("llama"), r"auto_map|trust-remote-code"),
    Case("diffusers config with code", "export diffusers:WanTransformer3DModel --config wan -o new",
         ("wan",), _auto_map("wan")),  # diffusers runs none of a class that it has itself
    Case("manifest that names a config with code", "check cache --cases 1 --runtime onnxruntime",
         ("cache",), _auto_map("cache"), r"auto_map|trust-remote-code"),
    Case("manifest that names a factory", "check flux --cases 1 --runtime onnxruntime", ("flux",),
         _factory_in_manifest, r"--module"),
    Case("manifest that names a class", "run flux --random --runtime onnxruntime", ("flux",),
         _class_in_manifest),
    Case("engine of another machine", "run engine --random --runtime tensorrt", ("engine",),
         _strange_engine, r"trust|GPU"),
    Case("engine of another machine, checked", "check engine --cases 1 --runtime tensorrt",
         ("engine",), _strange_engine, r"trust|GPU"),
    Case("engine with a library beside it", "run engine --random --runtime tensorrt", ("engine",),
         _plugin, r"plugin|trust|GPU"),
    Case("engine with a library, inspected", "inspect engine --lint", ("engine",), _plugin),
    *(Case(f"{name} {where}", f"{verb}", (base,), _outside(base, name, where), _OUT)
      for base, name, verb in (
          ("flux", "model.onnx", "run flux --random --runtime onnxruntime"),
          ("flux", "model.onnx", "inspect flux"),
          ("flux", "model.onnx", "build flux"),
          ("engine", "model.engine", "inspect engine"))
      for where in ("absolute", "up", "link")),
    *(Case(f"modules beside the user, {command.split()[0]}", command, ("flux", "engine", "llama"),
           _modules(*_USUAL), alone=True, seconds=30.0 if "plugin" in command else 0.0)
      for command in (
          "bench flux --against eager --rounds 1 --repeats 1", "build flux", "doctor",
          "check flux --cases 1 --runtime onnxruntime", "inspect flux --lint", "plugin build",
          "export flux-attention -o new --heads 2 --head-dim 8 --length 8",
          "run engine --random --runtime onnxruntime",
          "export transformers:llama -o new --copy-weights")),
    Case("names with escapes, inspected", "inspect flux", ("flux",), _names("flux")),
    Case("names with escapes, run", "run flux --random --runtime onnxruntime", ("flux",),
         _names("flux")),
    Case("names with escapes, checked", "check flux --cases 1 --runtime onnxruntime --html a.html "
         "--junit a.xml --markdown a.md", ("flux",), _names("flux")),
    Case("signed, then changed", "verify signed/folder --key signed/public.pem", ("signed",),
         _changed, r"model\.onnx"),
    Case("arrays with pickles", "run flux --input flux/in.npz", ("flux",), _pickle, r"in\.npz"),
    Case("saved arrays with pickles", "check flux flux/in.npz", ("flux",), _pickle, r"in\.npz"),
)  # fmt: skip


def cases(worker: Worker, bases: Path) -> Iterator[Tally]:
    """Try every case; a tally each."""
    for case in CASES:
        worker.clear()
        for base in case.bases:
            shutil.copytree(bases / base, worker.work / base)
        marker = worker.place / "tmp" / MARKER
        case.prepare(worker.work, marker)
        give(worker.work)
        ended = worker.run(case.command.split(), case.seconds or PATIENCE, alone=case.alone)
        wrong = [fault for fault in complaints(ended) if not (case.seconds and ended.hung)]
        if marker.exists():
            wrong.append(("ran", f"{case.name}: code of the folder's was run"))
        said = ended.output + ended.errors
        if case.says and (ended.code == 0 or not re.search(case.says, said)):
            last = (ended.errors.strip() or ended.output.strip()).splitlines()[-1:]
            wrong.append(("ran", f"{case.name}: exit {ended.code}, expected {case.says!r}: {last}"))
        how = f"{case.name}: ropeexport {case.command}"
        found = tuple(Finding(kind, text, how) for kind, text in wrong)
        yield Tally("strangers", case.command.split()[0], parsed=True, findings=found)
