"""Command lines with absurd values."""

from __future__ import annotations

from hypothesis import strategies as st

from attack.recipe import Recipe
from attack.values import INTEGERS, REALS, TEXTS, edit_of

_OPTIONS = {
    "export": ("-o", "--batch", "--heads", "--head-dim", "--length", "--dtype", "--config",
               "--cache", "--capacity", "--copy-weights", "--hash-weights", "--require-rope",
               "--axis", "--max-position", "--attention", "--opset", "--force", "--json", "-v",
               "--trust-remote-code"),
    "fuse": ("-o", "--require-rope", "--axis", "--max-position", "--attention", "--static",
             "--force", "-v"),
    "build": ("--min-shapes", "--opt-shapes", "--max-shapes", "--impl", "--plugins",
              "--embed-plugin", "--refit", "--strip", "--weight-streaming", "--flavour", "--force",
              "--json"),
    "check": ("--module", "--pipeline", "--cases", "--seed", "--lengths", "--require", "--runtime",
              "--atol", "--rtol", "--tokens", "--locate", "--json", "--html", "--markdown",
              "--junit", "--schema", "--trust", "--key", "--trust-remote-code"),
    "run": ("--input", "--random", "--shapes", "--seed", "--runtime", "--device", "--threads",
            "--verify", "-o", "--force", "--trust", "--key"),
    "bench": ("--against", "--device", "--lengths", "--module", "--rounds", "--repeats",
              "--threads", "--seed", "--json", "--schema"),
    "report": ("--html", "--markdown", "--junit", "--schema"),
    "inspect": ("--lint", "--json"),
    "doctor": ("--json",),
    "sign": ("--key", "--password", "--force"),
    "verify": ("--key", "--ignore-unsigned", "--json"),
}  # fmt: skip
_FLAGS = {"--force", "--json", "-v", "--static", "--copy-weights", "--hash-weights", "--lint",
          "--locate", "--schema", "--random", "--refit", "--strip", "--weight-streaming",
          "--embed-plugin", "--trust", "--trust-remote-code", "--ignore-unsigned"}  # fmt: skip
_ALWAYS = {
    "export": ["flux-attention", "-o", "new", "--heads", "2", "--head-dim", "8", "--length", "8"],
    "fuse": ["script/model.onnx", "-o", "new"], "build": ["flux"],
    "check": ["flux", "--cases", "1", "--runtime", "onnxruntime"], "run": ["flux", "--random"],
    "bench": ["flux", "--against", "eager", "--rounds", "1", "--repeats", "1"],
    "report": ["flux"], "inspect": ["flux"], "doctor": [],
    "sign": ["flux", "--key", "signed/private.pem"], "verify": ["signed/folder"],
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
    "signed/public.pem", "signed/private.pem",
)  # fmt: skip
_TARGETS = st.tuples(*(
    edit_of(name, how, st.none())
    for name, how in (("fifo", "fifo"), ("folder", "folder"), ("socket", "socket"),
                      ("loop", "link to itself"), ("out", "link out"))
))  # fmt: skip


@st.composite
def arguments(draw: st.DrawFn) -> Recipe:
    """Draw a command line of known options with values that none of them was made for."""
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
    bases = ("flux", "script", "factory", "signed")
    return Recipe("arguments", (verb, *safe), bases, draw(_TARGETS), True, patience)
