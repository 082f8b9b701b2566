"""Broken inputs by the part that they attack, drawn by hypothesis: the same ones for a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from attack import edits, protos
from attack.recipe import Edit, Recipe

PLACES = st.integers(0, 2**48)
HOSTILE = (
    "", " ", ".", "..", "../../../etc/passwd", "/etc/passwd", "a/b", "-", "--help", "\0", "\n",
    "x\ny", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "[/y]", "[bold]", "<script>alert(1)</script>",
    "```", "|", "{0}", "%s", "${HOME}", "a" * 5000, "\u202e", "\ud800", "é", "\N{PILE OF POO}",
    "length + length", "2*length", "batch", "1e309", "nan", "None", "True", "😀" * 100, "x:y",
    "ropeexport", "ApplyRope", "q", "model.onnx", "manifest.json", "float32", "bfloat16", "object",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 7, 127, 2**31 - 1, -(2**31), 2**31, 2**32, 2**40, 2**53, 2**63 - 1, -(2**63),
    2**64, 10**12, 10**30, 99,
)  # fmt: skip
FLOATS = (0.0, -0.0, 1.5, 1e-320, 1e38, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=12))
INTEGERS = st.one_of(st.sampled_from(NUMBERS), st.integers(-(2**66), 2**66), st.integers(-5, 300))
REALS = st.one_of(st.sampled_from(FLOATS), st.floats())
SCALARS = st.one_of(TEXTS, INTEGERS, REALS, st.booleans(), st.none())
VALUES = st.one_of(
    SCALARS,
    SCALARS,
    st.lists(SCALARS, max_size=4),
    st.dictionaries(st.text(max_size=6), SCALARS, max_size=3),
    st.lists(st.lists(SCALARS, max_size=2), max_size=2),
)
_LIKE = st.tuples(st.just("like"), SCALARS)
_ANY = st.one_of(
    st.tuples(st.just("set"), VALUES),
    st.tuples(st.just("set"), SCALARS),
    st.tuples(st.sampled_from(["drop", "copy", "twice", "count"]), st.none()),
    st.tuples(st.just("add"), TEXTS),
    st.tuples(st.sampled_from(["deep", "many"]), SCALARS),
)
# what a schema lets pass is as likely as all that it does not
_TREE = st.booleans().flatmap(lambda like: _LIKE if like else _ANY)


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


def _edit(file: str, how: str, value: st.SearchStrategy[Any]) -> st.SearchStrategy[Edit]:
    return st.builds(Edit, st.just(file), st.just(how), PLACES, value)


def _json(file: str) -> st.SearchStrategy[Edit]:
    return _edit(file, "json", _TREE)


def _some(edit: st.SearchStrategy[Edit], most: int = 3) -> st.SearchStrategy[tuple[Edit, ...]]:
    return st.lists(edit, min_size=1, max_size=most).map(tuple)


def _mostly(usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return one that draws the rare one once in twelve times."""
    return st.integers(0, 11).flatmap(lambda number: rare if number == 5 else usual)


def _bytes(file: str) -> st.SearchStrategy[Edit]:
    return st.one_of(
        _edit(file, "cut", st.none()),
        _edit(file, "flip", st.binary(min_size=1, max_size=4).map(list)),
        _edit(file, "replace", st.one_of(TEXTS, st.sampled_from(["null", "[]", "{}", "1", "NaN"]))),
        _edit(file, "encode", st.none()),
    )


def _onnx(file: str) -> st.SearchStrategy[Edit]:
    scalars = st.one_of(TEXTS, INTEGERS, REALS)
    place = st.tuples(TEXTS, INTEGERS, INTEGERS)
    special = {"onnx external": place, "onnx set": scalars, "onnx size": scalars}
    rows = [_edit(file, how, special.get(how, scalars)) for how in protos.EDITS]
    usual = st.one_of(*rows, _edit(file, "onnx set", scalars))
    return _mostly(usual, _bytes(file))


def _other_files(file: str) -> st.SearchStrategy[Edit]:
    return st.sampled_from(sorted(edits.FILES)).flatmap(lambda how: _edit(file, how, TEXTS))


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
        rows.append(_recipe("graphs", commands, [base], _some(_onnx(file))))
    pair = [
        f"check good/model.onnx flux/model.onnx {_CHECK}", f"check flux/model.onnx good {_CHECK}",
        "check flux/model.onnx flux/saved.npz", "check flux good/model.onnx --locate --cases 1",
        "check good/model.onnx flux/model.onnx --locate --cases 1",
    ]  # fmt: skip
    rows.append(_recipe("graphs", pair, ["flux", "flux:good"], _some(_onnx("flux/model.onnx"))))
    return st.one_of(*rows)


def _builds() -> st.SearchStrategy[Recipe]:
    rows = [
        _recipe("builds", ["build engine --force", "build flux", "build flux --impl native",
                           "build flux --refit --strip", "bench flux --against eager --rounds 1"],
                ["flux", "engine"], _some(edit), 60.0)
        for edit in (_onnx("flux/model.onnx"), _onnx("engine/model.onnx"),
                     _json("flux/manifest.json"), _json("engine/manifest.json"))
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
        edit = _mostly(_json(f"{base}/manifest.json"), _bytes(f"{base}/manifest.json"))
        rows.append(_recipe("manifests", commands, [base], _some(edit)))
    return st.one_of(*rows)


def _reports() -> st.SearchStrategy[Recipe]:
    forms = ["", " --html new.html", " --markdown new.md", " --junit new.xml"]
    commands = [f"report {path}{form}" for path in ("flux", "flux/parity.json") for form in forms]
    parity = _mostly(_json("flux/parity.json"), _bytes("flux/parity.json"))
    bench = _mostly(_json("flux/bench.json"), _bytes("flux/bench.json"))
    return st.one_of(
        _recipe("reports", commands, ["flux"], _some(parity)),
        _recipe("reports", commands, ["flux"], _some(parity)),
        _recipe("reports", ["inspect flux --lint", "report flux/bench.json", *commands], ["flux"],
                _some(bench)),
    )  # fmt: skip


def _arrays() -> st.SearchStrategy[Recipe]:
    shape = st.lists(st.integers(0, 9), max_size=7)
    array = st.tuples(shape, st.floats())
    member = st.tuples(st.sampled_from(["drop", "rename", "cut", "add", "header"]),
                       st.one_of(TEXTS, INTEGERS))  # fmt: skip

    def zipped(file: str) -> st.SearchStrategy[Edit]:
        rows = [_edit(file, "npz array", array), _edit(file, "npz member", member)]
        return _mostly(st.one_of(*rows), _bytes(file))

    alone = _mostly(_edit("flux/q.npy", "npy header", SCALARS), _bytes("flux/q.npy"))
    return st.one_of(
        _recipe("arrays", ["run flux --input flux/in.npz", "run flux --input flux/in.npz -o n.npz",
                           "run flux --random --input flux/in.npz"],
                ["flux"], _some(zipped("flux/in.npz"))),
        _recipe("arrays", ["check flux flux/saved.npz", "check flux/model.onnx flux/saved.npz",
                           "check flux flux/saved.npz --html new.html --junit new.xml"],
                ["flux"], _some(zipped("flux/saved.npz"))),
        _recipe("arrays", ["run flux --random --input q=flux/q.npy"], ["flux"], _some(alone)),
    )  # fmt: skip


def _weights() -> st.SearchStrategy[Recipe]:
    rows = []
    readers = ["inspect cache", "inspect cache --lint", "run cache --random",
               "run cache --random --verify all", f"check cache {_CHECK}"]  # fmt: skip
    exports = ["export transformers:llama -o new --copy-weights"]
    for base, commands in (("cache", readers), ("cache", readers), ("llama", exports)):
        index = f"{base}/model.safetensors.index.json"
        shard = f"{base}/model-00002-of-00006.safetensors"
        odd = st.one_of(_edit(shard, "header length", INTEGERS), _bytes(shard))
        header = _mostly(_edit(shard, "header", _TREE), odd)
        rows.append(_recipe("weights", commands, [base], _some(header)))
        rows.append(_recipe("weights", commands, [base], _some(_json(index))))
    return st.one_of(*rows)


def _configs() -> st.SearchStrategy[Recipe]:
    llama = _mostly(_json("llama/config.json"), _bytes("llama/config.json"))
    wan = _mostly(_json("wan/config.json"), _bytes("wan/config.json"))
    texts = ["export transformers:llama -o new --copy-weights",
             "export transformers:llama/config.json -o new",
             "export transformers:llama/config.json --cache fixed --capacity 32 -o new",
             ]  # fmt: skip
    pictures = ["export diffusers:WanTransformer3DModel --config wan -o new",
                "export diffusers:WanTransformer3DModel --config wan/config.json -o new",
                ]  # fmt: skip
    return st.one_of(
        _recipe("configs", texts, ["llama"], _some(llama)),
        _recipe("configs", pictures, ["wan"], _some(wan)),
    )


_OPTIONS = {
    "export": ("-o", "--batch", "--heads", "--head-dim", "--length", "--dtype", "--config",
               "--cache", "--capacity", "--copy-weights", "--hash-weights", "--require-rope",
               "--axis", "--max-position", "--attention", "--opset", "--force", "--json", "-v"),
    "fuse": ("-o", "--require-rope", "--axis", "--max-position", "--attention", "--static",
             "--force", "-v"),
    "build": ("--min-shapes", "--opt-shapes", "--max-shapes", "--impl", "--plugins",
              "--embed-plugin", "--refit", "--strip", "--weight-streaming", "--flavour", "--force",
              "--json"),
    "check": ("--module", "--pipeline", "--cases", "--seed", "--lengths", "--require", "--runtime",
              "--atol", "--rtol", "--tokens", "--locate", "--json", "--html", "--markdown",
              "--junit", "--schema"),
    "run": ("--input", "--random", "--shapes", "--seed", "--runtime", "--device", "--threads",
            "--verify", "-o", "--force"),
    "bench": ("--against", "--device", "--lengths", "--module", "--rounds", "--repeats",
              "--threads", "--seed", "--json", "--schema"),
    "report": ("--html", "--markdown", "--junit", "--schema"),
    "inspect": ("--lint", "--json"),
    "doctor": ("--json",),
}  # fmt: skip
_FLAGS = {"--force", "--json", "-v", "--static", "--copy-weights", "--hash-weights", "--lint",
          "--locate", "--schema", "--random", "--refit", "--strip", "--weight-streaming",
          "--embed-plugin"}  # fmt: skip
_ALWAYS = {
    "export": ["flux-attention", "-o", "new", "--heads", "2", "--head-dim", "8", "--length", "8"],
    "fuse": ["script/model.onnx", "-o", "new"], "build": ["flux"],
    "check": ["flux", "--cases", "1", "--runtime", "onnxruntime"], "run": ["flux", "--random"],
    "bench": ["flux", "--against", "eager", "--rounds", "1", "--repeats", "1"],
    "report": ["flux"], "inspect": ["flux"], "doctor": [],
}  # fmt: skip
_USUAL = (
    "flux", "flux/model.onnx", "flux/parity.json", "flux/manifest.json", "new", "new/deeper/still",
    "fp16", "bf16", "fixed", "gqa", "blocks", "batch=1:1:2", "length=1:8:16", "length=8",
    "batch=1:2", "=1:2:3", "batch=-1:0:1", "batch=1:1:99999999999999999999", "q:1x2x8x8",
    "q:1x2x8x8,k:1x2x8x8,v:1x2x8x8,pe:1x1x8x4x2x2", "q:0x0", "q:-1x2", "1,8", "8,8", "0", "1,",
    "onnxruntime", "openvino", "tensorrt", "eager", "all", "files", "native", "plugin", "cpu",
    "cuda", "factory/factory.py:factory", "factory/factory.py:missing", "nope.py:f", "json:loads",
    "os:getcwd", "x=1:2:3:4", "length=8,batch=2", "q=flux/q.npy", "=flux/q.npy", "flux/in.npz",
    "fifo", "folder", "socket", "nothing", "./fifo", "folder/", "loop", "out", "1e3", "0x10", "٣",
)  # fmt: skip
_TARGETS = st.tuples(*(
    _edit(name, how, st.none())
    for name, how in (("fifo", "fifo"), ("folder", "folder"), ("socket", "socket"),
                      ("loop", "link to itself"), ("out", "link out"))
))  # fmt: skip


@st.composite
def _arguments(draw: st.DrawFn) -> Recipe:
    verb = draw(st.sampled_from(sorted(_OPTIONS)))
    words = list(_ALWAYS[verb])
    option_value = st.one_of(
        st.sampled_from(_USUAL), st.sampled_from(_USUAL), INTEGERS.map(str), REALS.map(str), TEXTS
    )
    if words and draw(st.integers(0, 3)) == 0:
        words[0] = draw(option_value)
    for _ in range(draw(st.integers(0 if verb == "doctor" else 1, 3))):
        option = draw(st.sampled_from(_OPTIONS[verb]))
        words.append(option)
        if option not in _FLAGS:
            words.append(draw(option_value))
    safe = (word.replace("\0", "NUL").encode("utf-8", "replace").decode() for word in words)
    # bench and check of many cases may take as long as they are asked to
    patience = 60.0 if verb in ("bench", "build", "export") else 20.0
    bases = ("flux", "script", "factory")
    return Recipe("arguments", (verb, *safe), bases, draw(_TARGETS), True, patience)


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
        edit = st.one_of(*(_other_files(f"{base}/{file}".rstrip("/")) for file in files))
        rows.append(_recipe("files", commands, [base], _some(edit, 2)))
    inputs = ["run flux --input flux/in.npz", "check flux flux/saved.npz",
              "run flux --random --input q=flux/q.npy", "fuse flux/q.npy -o new"]  # fmt: skip
    edit = st.one_of(*(_other_files(f"flux/{f}") for f in ("in.npz", "saved.npz", "q.npy")))
    rows.append(_recipe("files", inputs, ["flux"], _some(edit, 2)))
    targets = ["report flux --html new", "report flux --junit new", "report flux --markdown new",
               f"check flux {_CHECK} --html new", "run flux --random -o new",
               "run flux --random -o new --force", "fuse script/model.onnx -o new",
               "fuse script/model.onnx -o new --force", "export flux-attention -o new"]  # fmt: skip
    rows.append(_recipe("files", targets, ["flux", "script"], _some(_other_files("new"), 1)))
    models = ["export transformers:llama -o new --copy-weights",
              "export transformers:llama/config.json -o new"]  # fmt: skip
    names = ("config.json", "model.safetensors.index.json", "model-00001-of-00006.safetensors")
    edit = st.one_of(*(_other_files(f"llama/{name}") for name in names))
    rows.append(_recipe("files", models, ["llama"], _some(edit, 1)))
    return st.one_of(*rows)


PARTS: dict[str, st.SearchStrategy[Recipe]] = {
    "graphs": _graphs(),
    "manifests": _manifests(),
    "reports": _reports(),
    "arrays": _arrays(),
    "weights": _weights(),
    "configs": _configs(),
    "arguments": _arguments(),
    "files": _kinds_of_files(),
    "builds": _builds(),
}
