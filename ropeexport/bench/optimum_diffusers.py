"""``python optimum_diffusers.py FOLDER FILE``: run by the interpreter of optimum's environment.

optimum's command exports whole pipelines of diffusers; its own function exports their transformer.
"""

import sys
from pathlib import Path

import diffusers
from optimum.exporters.onnx import export
from optimum.exporters.tasks import TasksManager

# optimum's names of the classes that it exports; it files them all under one task
_MODEL_TYPES = {
    "FluxTransformer2DModel": "flux-transformer-2d",
    "SD3Transformer2DModel": "sd3-transformer-2d",
}
_TASK, _OPSET = "semantic-segmentation", 18
_FLOATS = {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}


def main(folder: Path, target: Path) -> None:
    """Export a saved model of diffusers."""
    name = diffusers.AutoModel.load_config(folder)["_class_name"]
    if name not in _MODEL_TYPES:
        raise SystemExit(f"optimum-onnx exports {', '.join(_MODEL_TYPES)} of diffusers; no {name}")
    module = getattr(diffusers, name).from_pretrained(folder).eval()
    make = TasksManager.get_exporter_config_constructor(
        model=module,
        exporter="onnx",
        library_name="diffusers",
        task=_TASK,
        model_type=_MODEL_TYPES[name],
    )
    config = make(module.config, int_dtype="int64", float_dtype=_FLOATS[str(module.dtype)])
    export(module, config, output=target, opset=_OPSET)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
