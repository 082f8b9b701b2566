// A plugin library opened as TensorRT opens one: by its two entry points, without TensorRT.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace harness {

// The library cannot be used at all, as against a check that does not hold.
struct Unusable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Keeps what the library says, so that a refusal without a message is noticed.
class Journal final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override;

  // The errors since the last call.
  std::vector<std::string> take_errors();

 private:
  std::mutex mutex_;
  std::vector<std::string> errors_;
};

class Library {
 public:
  Library(const std::string& path, Journal& journal);

  // The library's creators as its own entry point lists them.
  const std::vector<nvinfer1::IPluginCreatorInterface*>& creators() const { return creators_; }
  // The creator of a plugin.
  nvinfer1::IPluginCreatorV3One& creator(const char* name) const;

 private:
  std::vector<nvinfer1::IPluginCreatorInterface*> creators_;
};

using Plugin = std::unique_ptr<nvinfer1::IPluginV3>;

struct Capabilities {
  nvinfer1::IPluginV3OneCore* core;
  nvinfer1::IPluginV3OneBuild* build;
  nvinfer1::IPluginV3OneRuntime* runtime;
};
Capabilities capabilities_of(nvinfer1::IPluginV3& plugin);

// A plugin as an engine file makes it: its fields copied, and created from the copy.
Plugin deserialized(nvinfer1::IPluginCreatorV3One& creator, nvinfer1::IPluginV3& built);

}  // namespace harness
