#include "creator.h"

#include <new>

#include "identity.h"
#include "log.h"
#include "plugin.h"

namespace ropeexport {

nvinfer1::IPluginV3* ApplyRopeCreator::createPlugin(const char*,
                                                    const nvinfer1::PluginFieldCollection* fields,
                                                    nvinfer1::TensorRTPhase phase) noexcept {
  const auto parameters = read_parameters(fields, phase);
  if (!parameters) return nullptr;
  auto* const plugin = new (std::nothrow) ApplyRopePlugin(*parameters);
  if (!plugin) refuse("no memory for the plugin");
  return plugin;
}

// None: an ONNX node has nothing to say to the plugin beyond its version and namespace.
const nvinfer1::PluginFieldCollection* ApplyRopeCreator::getFieldNames() noexcept {
  static const nvinfer1::PluginFieldCollection none{0, nullptr};
  return &none;
}

const char* ApplyRopeCreator::getPluginName() const noexcept { return kPluginName; }
const char* ApplyRopeCreator::getPluginVersion() const noexcept { return kPluginVersion; }
const char* ApplyRopeCreator::getPluginNamespace() const noexcept { return kPluginNamespace; }

ApplyRopeCreator& creator() noexcept {
  static ApplyRopeCreator only;
  return only;
}

}  // namespace ropeexport
