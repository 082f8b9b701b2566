#include "library.h"

#include <dlfcn.h>

#include <cstring>
#include <utility>

#include "stand_in.h"

namespace harness {
namespace {

template <typename F>
F symbol(void* handle, const std::string& path, const char* name) {
  void* const address = dlsym(handle, name);
  if (!address) throw Unusable(path + ": no plugin library: it has no " + name);
  return reinterpret_cast<F>(address);
}

std::size_t bytes_of(nvinfer1::PluginFieldType type) {
  switch (type) {
    case nvinfer1::PluginFieldType::kINT32:
    case nvinfer1::PluginFieldType::kFLOAT32:
      return 4;
    case nvinfer1::PluginFieldType::kINT64:
      return 8;
    default:
      return 1;
  }
}

}  // namespace

void Journal::log(Severity severity, const char* message) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (severity <= Severity::kERROR) errors_.emplace_back(message);
}

std::vector<std::string> Journal::take_errors() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(errors_, {});
}

Library::Library(const std::string& path, Journal& journal) {
  // never closed: plugins made by it outlive any scope
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw Unusable(path + ": " + dlerror());
  using SetFinder = void (*)(nvinfer1::ILoggerFinder*);
  using GetCreators = nvinfer1::IPluginCreatorInterface* const* (*)(std::int32_t&);
  symbol<SetFinder>(handle, path, "setLoggerFinder")(stand_in_finder(&journal));
  std::int32_t count = 0;
  auto* const* const list = symbol<GetCreators>(handle, path, "getCreators")(count);
  creators_.assign(list, list + count);
}

nvinfer1::IPluginCreatorV3One& Library::creator(const char* name) const {
  for (auto* const found : creators_) {
    if (std::strcmp(found->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") != 0) continue;
    auto& creator = *static_cast<nvinfer1::IPluginCreatorV3One*>(found);
    if (std::strcmp(creator.getPluginName(), name) == 0) return creator;
  }
  throw Unusable(std::string("no creator of an IPluginV3 ") + name);
}

Capabilities capabilities_of(nvinfer1::IPluginV3& plugin) {
  using nvinfer1::PluginCapabilityType;
  const auto get = [&](PluginCapabilityType type) { return plugin.getCapabilityInterface(type); };
  return {static_cast<nvinfer1::IPluginV3OneCore*>(get(PluginCapabilityType::kCORE)),
          static_cast<nvinfer1::IPluginV3OneBuild*>(get(PluginCapabilityType::kBUILD)),
          static_cast<nvinfer1::IPluginV3OneRuntime*>(get(PluginCapabilityType::kRUNTIME))};
}

Plugin deserialized(nvinfer1::IPluginCreatorV3One& creator, nvinfer1::IPluginV3& built) {
  const auto* const saved = capabilities_of(built).runtime->getFieldsToSerialize();
  std::vector<std::string> names;
  std::vector<std::vector<char>> values;
  std::vector<nvinfer1::PluginField> fields;
  names.reserve(saved->nbFields);
  values.reserve(saved->nbFields);
  for (std::int32_t i = 0; i < saved->nbFields; ++i) {
    const nvinfer1::PluginField& field = saved->fields[i];
    const char* const data = static_cast<const char*>(field.data);
    names.emplace_back(field.name);
    values.emplace_back(data, data + bytes_of(field.type) * field.length);
    fields.emplace_back(names.back().c_str(), values.back().data(), field.type, field.length);
  }
  const nvinfer1::PluginFieldCollection copy{static_cast<std::int32_t>(fields.size()),
                                             fields.data()};
  return Plugin(creator.createPlugin("rope", &copy, nvinfer1::TensorRTPhase::kRUNTIME));
}

}  // namespace harness
