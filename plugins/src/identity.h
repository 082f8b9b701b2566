// By what TensorRT finds the plugin; ropeexport/onnx_ops/names.py writes the same into ONNX nodes.
#pragma once

#ifndef ROPEEXPORT_PLUGIN_VERSION
#define ROPEEXPORT_PLUGIN_VERSION "1"
#endif

namespace ropeexport {

constexpr char kPluginName[] = "ApplyRope";
constexpr char kPluginVersion[] = ROPEEXPORT_PLUGIN_VERSION;
constexpr char kPluginNamespace[] = "ropeexport";

}  // namespace ropeexport
