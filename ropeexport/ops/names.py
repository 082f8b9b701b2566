"""Names and versions that the ONNX file, the function bodies and the TensorRT plugin share."""

from __future__ import annotations

DOMAIN = "ropeexport"
DOMAIN_VERSION = 1

APPLY_ROPE = "ApplyRope"
NORM_ROPE = "NormRope"  # the same behind an RMS norm and a transpose
ROPE_TABLE = "RopeTable"
ATTENTION_IN_BLOCKS = "AttentionInBlocks"
GROUPED_ATTENTION = "GroupQueryAttention"  # onnxruntime's own, of com.microsoft

# what is put into a model that asks for nothing else
BY_DEFAULT = (APPLY_ROPE,)

# TensorRT prefers a plugin to the function body only where the node carries these attributes
PLUGIN_VERSION = "1"
PLUGIN_NAMESPACE = DOMAIN
PLUGIN_ATTRIBUTES = {"plugin_version": PLUGIN_VERSION, "plugin_namespace": PLUGIN_NAMESPACE}

MIN_OPSET = 23  # the first with Attention and RotaryEmbedding
CACHE_OPSET = 24  # the first with TensorScatter
