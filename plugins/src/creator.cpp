#include "creator.h"

#include <cstddef>
#include <new>
#include <utility>

#include "identity.h"
#include "log.h"
#include "plugin.h"

namespace ropeexport {

nvinfer1::IPluginV3* RopeCreator::createPlugin(const char*,
                                               const nvinfer1::PluginFieldCollection* fields,
                                               nvinfer1::TensorRTPhase phase) noexcept {
  const auto parameters = read_parameters(form_, fields, phase);
  if (!parameters) return nullptr;
  auto* const plugin = new (std::nothrow) RopePlugin(form_, *parameters);
  if (!plugin) refuse("no memory for the plugin");
  return plugin;
}

const nvinfer1::PluginFieldCollection* RopeCreator::getFieldNames() noexcept {
  return attribute_names(form_);
}

const char* RopeCreator::getPluginName() const noexcept { return form_.name; }
const char* RopeCreator::getPluginVersion() const noexcept { return kPluginVersion; }
const char* RopeCreator::getPluginNamespace() const noexcept { return kPluginNamespace; }

namespace {

template <std::size_t... kIndices>
const Creators& make_creators(std::index_sequence<kIndices...>) noexcept {
  static RopeCreator all[] = {RopeCreator(kForms[kIndices])...};
  static const Creators pointers = {&all[kIndices]...};
  return pointers;
}

}  // namespace

const Creators& creators() noexcept {
  return make_creators(std::make_index_sequence<kFormCount>());
}

}  // namespace ropeexport
