"""Broken inputs by the part that they attack, drawn by hypothesis: the same ones for a seed."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from attack.arguments import arguments
from attack.recipe import Edit, Recipe
from attack.values import (
    INTEGERS,
    SCALARS,
    TEXTS,
    TREE,
    bytes_edit,
    edit_of,
    json_edit,
    mostly,
    onnx_edit,
    other_file,
    some,
)  # fmt: skip


def recipes(part: str, seed_of: int, count: int) -> list[Recipe]:
    """Return broken inputs of one part."""
    drawn: list[Recipe] = []

    @seed(seed_of)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(PARTS[part])
    def collect(recipe: Recipe) -> None:
        drawn.append(recipe)

    collect()
    return drawn[:count]


def _recipe(
    part: str,
    commands: Sequence[str],
    bases: Sequence[str],
    changed: st.SearchStrategy[tuple[Edit, ...]],
    deadline: float = 20.0,
) -> st.SearchStrategy[Recipe]:
    return st.builds(
        Recipe,
        part=st.just(part),
        argv=st.sampled_from([tuple(command.split()) for command in commands]),
        bases=st.just(tuple(bases)),
        edits=changed,
        rehash=st.sampled_from([True, True, True, False]),
        deadline=st.just(deadline),
    )


_CHECK = "--cases 2 --runtime onnxruntime"


def _graphs() -> st.SearchStrategy[Recipe]:
    rows = []
    for base in ("flux", "fused", "control", "foreign", "script", "cache"):
        file = f"{base}/model.onnx"
        commands = [f"inspect {file}", f"inspect {file} --lint", f"fuse {file} -o new",
                    f"fuse {file} -o new --static -v", f"inspect {file} --json"]  # fmt: skip
        if base in ("flux", "fused", "cache"):
            commands += [f"inspect {base}", f"inspect {base} --lint", f"run {base} --random",
                         f"check {base} {_CHECK}", f"run {base} --random --verify all"]  # fmt: skip
        rows.append(_recipe("graphs", commands, [base], some(onnx_edit(file))))
    pair = [
        f"check good/model.onnx flux/model.onnx {_CHECK}", f"check flux/model.onnx good {_CHECK}",
        "check flux/model.onnx flux/saved.npz", "check flux good/model.onnx --locate --cases 1",
        "check good/model.onnx flux/model.onnx --locate --cases 1",
    ]  # fmt: skip
    rows.append(_recipe("graphs", pair, ["flux", "flux:good"], some(onnx_edit("flux/model.onnx"))))
    return st.one_of(*rows)


def _builds() -> st.SearchStrategy[Recipe]:
    rows = [
        _recipe("builds", ["build engine --force", "build flux", "build flux --impl native",
                           "build flux --refit --strip", "bench flux --against eager --rounds 1"],
                ["flux", "engine"], some(edit), 60.0)
        for edit in (onnx_edit("flux/model.onnx"), onnx_edit("engine/model.onnx"),
                     json_edit("flux/manifest.json"), json_edit("engine/manifest.json"))
    ]  # fmt: skip
    return st.one_of(*rows)


def _manifests() -> st.SearchStrategy[Recipe]:
    rows = []
    for base in ("flux", "engine", "fused", "cache", "factory"):
        commands = [f"inspect {base}", f"inspect {base} --lint", f"run {base} --random",
                    f"check {base} {_CHECK}", f"inspect {base} --json",
                    f"run {base} --random --runtime onnxruntime -o new.npz"]  # fmt: skip
        if base == "factory":
            commands.append(f"check factory --module factory/factory.py:factory {_CHECK}")
        if base == "engine":
            commands += [
                "inspect engine/model.engine",
                "check engine --cases 2 --runtime tensorrt",
            ]
        edit = mostly(json_edit(f"{base}/manifest.json"), bytes_edit(f"{base}/manifest.json"))
        rows.append(_recipe("manifests", commands, [base], some(edit)))
    return st.one_of(*rows)


def _reports() -> st.SearchStrategy[Recipe]:
    forms = ["", " --html new.html", " --markdown new.md", " --junit new.xml"]
    commands = [f"report {path}{form}" for path in ("flux", "flux/parity.json") for form in forms]
    parity = mostly(json_edit("flux/parity.json"), bytes_edit("flux/parity.json"))
    bench = mostly(json_edit("flux/bench.json"), bytes_edit("flux/bench.json"))
    return st.one_of(
        _recipe("reports", commands, ["flux"], some(parity)),
        _recipe("reports", commands, ["flux"], some(parity)),
        _recipe("reports", ["inspect flux --lint", "report flux/bench.json", *commands], ["flux"],
                some(bench)),
    )  # fmt: skip


def _arrays() -> st.SearchStrategy[Recipe]:
    shape = st.lists(st.integers(0, 9), max_size=7)
    array = st.tuples(shape, st.floats())
    member = st.tuples(st.sampled_from(["drop", "rename", "cut", "add", "header"]),
                       st.one_of(TEXTS, INTEGERS))  # fmt: skip

    def zipped(file: str) -> st.SearchStrategy[Edit]:
        rows = [edit_of(file, "npz array", array), edit_of(file, "npz member", member)]
        return mostly(st.one_of(*rows), bytes_edit(file))

    alone = mostly(edit_of("flux/q.npy", "npy header", SCALARS), bytes_edit("flux/q.npy"))
    return st.one_of(
        _recipe("arrays", ["run flux --input flux/in.npz", "run flux --input flux/in.npz -o n.npz",
                           "run flux --random --input flux/in.npz"],
                ["flux"], some(zipped("flux/in.npz"))),
        _recipe("arrays", ["check flux flux/saved.npz", "check flux/model.onnx flux/saved.npz",
                           "check flux flux/saved.npz --html new.html --junit new.xml"],
                ["flux"], some(zipped("flux/saved.npz"))),
        _recipe("arrays", ["run flux --random --input q=flux/q.npy"], ["flux"], some(alone)),
    )  # fmt: skip


def _weights() -> st.SearchStrategy[Recipe]:
    rows = []
    readers = ["inspect cache", "inspect cache --lint", "run cache --random",
               "run cache --random --verify all", f"check cache {_CHECK}"]  # fmt: skip
    exports = ["export transformers:llama -o new --copy-weights"]
    for base, commands in (("cache", readers), ("cache", readers), ("llama", exports)):
        index = f"{base}/model.safetensors.index.json"
        shard = f"{base}/model-00002-of-00006.safetensors"
        odd = st.one_of(edit_of(shard, "header length", INTEGERS), bytes_edit(shard))
        header = mostly(edit_of(shard, "header", TREE), odd)
        rows.append(_recipe("weights", commands, [base], some(header)))
        rows.append(_recipe("weights", commands, [base], some(json_edit(index))))
    return st.one_of(*rows)


def _configs() -> st.SearchStrategy[Recipe]:
    llama = mostly(json_edit("llama/config.json"), bytes_edit("llama/config.json"))
    wan = mostly(json_edit("wan/config.json"), bytes_edit("wan/config.json"))
    texts = ["export transformers:llama -o new --copy-weights",
             "export transformers:llama/config.json -o new",
             "export transformers:llama/config.json --cache fixed --capacity 32 -o new",
             ]  # fmt: skip
    pictures = ["export diffusers:WanTransformer3DModel --config wan -o new",
                "export diffusers:WanTransformer3DModel --config wan/config.json -o new",
                ]  # fmt: skip
    return st.one_of(
        _recipe("configs", texts, ["llama"], some(llama), 60.0),
        _recipe("configs", pictures, ["wan"], some(wan), 60.0),
    )


def _kinds_of_files() -> st.SearchStrategy[Recipe]:
    rows = []
    readers = ("inspect {0}", "inspect {0} --lint", "run {0} --random", f"check {{0}} {_CHECK}",
               "report {0}", "inspect {0}/model.onnx", "fuse {0}/model.onnx -o new")  # fmt: skip
    by_base = {
        "flux": ("manifest.json", "model.onnx", "parity.json", "bench.json", ""),
        "engine": ("manifest.json", "model.engine"),
        "fused": ("model.onnx", "manifest.json"),
        "cache": ("model.onnx", "config.json", "model-00001-of-00006.safetensors"),
    }
    for base, files in by_base.items():
        commands = [row.format(base) for row in readers]
        edit = st.one_of(*(other_file(f"{base}/{file}".rstrip("/")) for file in files))
        rows.append(_recipe("files", commands, [base], some(edit, 2)))
    inputs = ["run flux --input flux/in.npz", "check flux flux/saved.npz",
              "run flux --random --input q=flux/q.npy", "fuse flux/q.npy -o new"]  # fmt: skip
    edit = st.one_of(*(other_file(f"flux/{f}") for f in ("in.npz", "saved.npz", "q.npy")))
    rows.append(_recipe("files", inputs, ["flux"], some(edit, 2)))
    targets = ["report flux --html new", "report flux --junit new", "report flux --markdown new",
               f"check flux {_CHECK} --html new", "run flux --random -o new",
               "run flux --random -o new --force", "fuse script/model.onnx -o new",
               "fuse script/model.onnx -o new --force", "export flux-attention -o new"]  # fmt: skip
    rows.append(_recipe("files", targets, ["flux", "script"], some(other_file("new"), 1)))
    models = ["export transformers:llama -o new --copy-weights",
              "export transformers:llama/config.json -o new"]  # fmt: skip
    names = ("config.json", "model.safetensors.index.json", "model-00001-of-00006.safetensors")
    edit = st.one_of(*(other_file(f"llama/{name}") for name in names))
    rows.append(_recipe("files", models, ["llama"], some(edit, 1)))
    return st.one_of(*rows)


def _signatures() -> st.SearchStrategy[Recipe]:
    commands = ["verify signed/folder --key signed/public.pem", "verify signed/folder",
                "verify signed/folder --key signed/public.pem --json --ignore-unsigned",
                "sign signed/folder --key signed/private.pem --force",
                "sign signed/folder --key signed/public.pem --force",
                "run signed/folder --random --key signed/public.pem"]  # fmt: skip
    files = ("folder/model.sig", "folder/manifest.json", "folder/model.onnx", "private.pem",
             "public.pem")  # fmt: skip
    odd = [bytes_edit(f"signed/{file}") for file in files]
    odd += [other_file(f"signed/{file}") for file in files]
    trees = [json_edit(f"signed/folder/{name}") for name in ("model.sig", "manifest.json")]
    edit = mostly(st.one_of(*trees), st.one_of(*odd))
    return _recipe("signatures", commands, ["signed"], some(edit))


PARTS: dict[str, st.SearchStrategy[Recipe]] = {
    "graphs": _graphs(),
    "manifests": _manifests(),
    "reports": _reports(),
    "arrays": _arrays(),
    "weights": _weights(),
    "configs": _configs(),
    "arguments": arguments(),
    "files": _kinds_of_files(),
    "builds": _builds(),
    "signatures": _signatures(),
}
