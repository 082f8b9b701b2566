// By what TensorRT finds the plugin; ropeexport/ops/names.py writes the same into ONNX nodes.
#pragma once

// The first form's name, and the beginning of every other's, see form.h: of those that rotate, and
// of those that norm first. Tests compile libraries of another name or version.
#ifndef ROPEEXPORT_PLUGIN_NAME
#define ROPEEXPORT_PLUGIN_NAME "ApplyRope"
#endif
#ifndef ROPEEXPORT_NORM_PLUGIN_NAME
#define ROPEEXPORT_NORM_PLUGIN_NAME "NormRope"
#endif
#ifndef ROPEEXPORT_PLUGIN_VERSION
#define ROPEEXPORT_PLUGIN_VERSION "1"
#endif

namespace ropeexport {

constexpr char kPluginVersion[] = ROPEEXPORT_PLUGIN_VERSION;
constexpr char kPluginNamespace[] = "ropeexport";

}  // namespace ropeexport
