"""Why a class is not exported as it should be: what a record says, and where that comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchmarks.models.records import Record


@dataclass(frozen=True)
class Cause:
    """A cause that is known: of records whose fault has these words, of all classes or of some."""

    words: str
    text: str
    classes: tuple[str, ...] = ()

    def fits(self, record: Record) -> bool:
        """Say whether it is the cause of a record's fault."""
        is_named = not self.classes or record.name in self.classes
        return is_named and re.search(self.words, record.fault()) is not None


CAUSES: tuple[Cause, ...] = (
    Cause(
        "departs from the graph as it was",
        "in float16 two of its ropes differ from the graph's by one unit of float16 on the numbers "
        "that a rewritten rope is tried on, and are left as they were written",
        ("BltModel",),
    ),
    Cause(
        "unhashable type",
        "its forward reads the lengths of the captions out of the mask and builds a Python set of "
        "them (transformer_lumina2.py, `use_mask`): their values are not known while it is traced",
        ("Lumina2Transformer2DModel",),
    ),
    Cause(
        "flex_attention",
        "its attention is torch's `flex_attention` over a mask of blocks, which torch's exporter "
        "has no translation of",
    ),
    Cause(
        r"\.numpy\(\) is not supported",
        "it counts the tokens of each expert in NumPy (transformer_hidream_image.py, "
        "`moe_infer`): the counts are not known while it is traced",
        ("HiDreamImageTransformer2DModel",),
    ),
    Cause(
        "data-dependent expression",
        "Python decides by the values of an input: by whether an image is all zeros "
        "(transformer_hunyuan_video15.py, `is_t2v`), or by the length of each text "
        "(transformer_hunyuan_video_framepack.py)",
        ("HunyuanVideo15Transformer3DModel", "HunyuanVideoFramepackTransformer3DModel"),
    ),
    Cause(
        "data-dependent expression",
        "Python loops over the images and interpolates a table to the size of each "
        "(modeling_cosmos3_edge.py, `for temporal, height, width in grid_thw.tolist()`)",
        ("Cosmos3EdgeVisionModel",),
    ),
    Cause(
        "data-dependent expression",
        "Python takes the number of keypoints that are left out of their values "
        "(modeling_lightglue.py), which is not known while it is traced",
        ("LightGlueForKeypointMatching",),
    ),
    Cause(
        "takes images",
        "Python loops over the images (modeling_lfm3_vl.py, `grid_thw.tolist()`), and each of them "
        "becomes nodes of its own",
        ("Lfm3VlVisionModel",),
    ),
    Cause(
        "data-dependent expression",
        "Python loops over each token's own blocks of keys (modeling_qwen4_exp.py, "
        "`num_complete_blocks`), of which the numbers say how many there are",
        ("Qwen4ExpModel", "Qwen4ExpTextModel"),
    ),
    Cause(
        "data-dependent expression",
        "the sizes of its attention's mask are numbers that it computes of the text "
        "(modeling_sam3.py), which are not known while it is traced",
        ("Sam3Model",),
    ),
    Cause(
        "on values of 0",
        "with random weights its sound is silence: the module's zeros are sums that cancel, and "
        "the file's are not exactly 0",
        ("NeuCodecModel", "Xcodec2Model"),
    ),
    Cause(
        "num_classes",
        "it reads positions as classes of a fixed number, and the check draws none that fit",
        ("Gemma4VisionModel",),
    ),
    Cause(
        "still running",
        "its export, or its check in float64, takes longer than a record may",
        ("DeepseekV4Model",),
    ),
    Cause(
        "^fp16: (eager, onnxruntime|onnxruntime, eager)",
        "in float16 eager torch itself is beyond the bound: which experts, or which entries of a "
        "sparse attention, a score chooses is decided by float16's rounding, or the error grows "
        "beyond what its rounding alone allows",
    ),
    Cause(
        "^fp16: eager: .*must have the same dtype",
        "eager torch does not run it in float16: its rotations are float32, and the layer behind "
        "them is not",
    ),
    Cause(
        "^fp16: onnxruntime",
        "one token's experts are chosen by scores that float16 rounds to another order, here in "
        "onnxruntime and not in eager torch",
        (
            "DeepseekOcr2TextModel",
            "JetMoeModel",
            "Kimi_K25Model",
            "Llama4TextModel",
            "MixtralModel",
            "Qwen3VLMoeTextModel",
            "UnlimitedOcrTextModel",
        ),
    ),
    Cause(
        "a complex input",
        "its pipelines give it a table of complex numbers, of which ONNX has none",
        ("LuminaNextDiT2DModel",),
    ),
    Cause(
        "linalg_qr",
        "it decomposes a matrix of weights by `linalg_qr` (transformer_wan_animate.py), which ONNX "
        "has no operator of",
        ("WanAnimateTransformer3DModel",),
    ),
)


def cause_of(record: Record) -> Cause | None:
    """Return the cause of a record's fault, None where none is known or where there is no fault."""
    return next((cause for cause in CAUSES if record.fault() and cause.fits(record)), None)
