"""``load``: an exported folder in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ropeexport.artifact import Artifact, Trust
from ropeexport.errors import UsageError
from ropeexport.given import THREADS, WORD, path_if, path_of, whole, whole_if

if TYPE_CHECKING:
    from ropeexport.inference.loaded import LoadedModel

Verify = Literal["files", "all"]


def load(  # noqa: PLR0913  (a user's choices, all but the first by keyword)
    path: str | Path,
    *,
    runtime: str = "auto",
    device: Literal["cpu", "cuda"] | None = None,
    providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None = None,
    plugin: str | Path | None = None,
    threads: int = 0,
    verify: Verify = "files",
    trust: bool | str | Path = False,
    cuda_graphs: bool = False,
    memory_budget: int | None = None,
) -> LoadedModel:
    """Load an exported folder into a runtime, to be called as its module was.

    The manifest's hash of the ONNX file is verified, and those of the engine and of its plugin
    where they run; of weights in files of their own size and header.  Neither torch nor the
    exporter is needed.

    Parameters
    ----------
    path : path
        An output folder of :func:`ropeexport.export` or :func:`ropeexport.fuse`.
    runtime : str
        ``auto``: the best that this machine has (an engine, then a GPU, then the CPU), which
        ``why`` explains; or ``onnxruntime``, ``onnxruntime:cuda``, ``openvino``, ``tensorrt``, ...
        One that is named and cannot run is an error.
    device : str
        ``cpu`` or ``cuda``; by default where the runtime is best.  Of several GPUs, torch's current
        one; the calls have to be made with that one too.
    providers : sequence
        An execution provider of onnxruntime by its name there, alone or with its options,
        ``("CUDAExecutionProvider", {"cudnn_conv_algo_search": "DEFAULT"})``, and the CPU's after
        it.  That it executes is verified: onnxruntime itself would go on with its CPU provider.
    plugin : path
        The plugin library of an engine that does not carry it; it must be the one that the engine
        was built with.
    threads : int
        Of the runtime's pool; 0: its own choice.
    verify : str
        ``files``, or ``all``: weights are read and hashed to their last byte too.
    trust : bool or path
        Of an engine that this user has neither built nor trusted before: ``True`` lets it run, and
        is kept for the next load; an engine can run code of whoever made it.  The file of a public
        key demands that the folder is as it was signed with that key, see :func:`ropeexport.sign`.
    cuda_graphs : bool
        Record the calls on torch's tensors once for each shape, and replay them (TensorRT).
    memory_budget : int
        Bytes of the GPU's memory: for the weights of an engine that was built with
        ``weight_streaming``, or for onnxruntime's CUDA provider.

    Returns
    -------
    LoadedModel
        A context manager, that may be called from several threads.

    Raises
    ------
    MissingError
        Where no runtime can load it here, or the one that is named cannot.
    ManifestError, ModelFileError, EngineError, PluginError
        Where a file is not the one of the manifest.
    UntrustedError
        For an engine of somebody else's without ``trust``, or one that its key has not signed.

    Examples
    --------
    >>> import numpy as np, ropeexport
    >>> made = ropeexport.export("flux-attention", out="out", heads=2, head_dim=16, length=32)
    >>> q = k = v = np.ones((1, 2, 8, 16), np.float32)
    >>> pe = np.broadcast_to(np.eye(2, dtype=np.float32), (1, 1, 8, 8, 2, 2))
    >>> with ropeexport.load("out", runtime="onnxruntime", device="cpu") as model:
    ...     model.provider, model(q=q, k=k, v=v, pe=pe).shape
    ('CPUExecutionProvider', (1, 8, 32))

    Torch in, torch out, into memory of your own:

    >>> import torch
    >>> model = ropeexport.load("out", device="cpu")
    >>> out = torch.empty(1, 8, 32)
    >>> y = model(torch.from_numpy(q), k, v, pe, out=out)
    >>> y is out
    True
    >>> model.close()
    """
    from ropeexport.inference.choosing import Wish, choose
    from ropeexport.inference.loaded import LoadedModel

    if verify not in get_args(Verify):
        raise UsageError(
            f"verify: expected {' or '.join(get_args(Verify))}, got {verify!r}", code="RX110"
        )
    threads = whole("threads", threads, 0, THREADS)
    memory_budget = whole_if("memory_budget", memory_budget, 0, WORD)
    artifact = Artifact.read(path_of("path", path), Trust.of(trust))
    artifact.require_exported_file()
    artifact.check_weights(hashed=verify == "all")
    artifact.check_interface()
    wish = Wish(
        runtime, device, tuple(providers or ()), path_if("plugin", plugin),
        threads, memory_budget, cuda_graphs,
    )  # fmt: skip
    with ExitStack() as stack:
        chosen = choose(artifact, wish, stack)
        model = LoadedModel(artifact, chosen, kept := ExitStack())
        kept.enter_context(stack.pop_all())
        return model
