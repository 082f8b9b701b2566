// What a plugin instance is made from, in an engine file and in memory.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <optional>

namespace ropeexport {

// Which definition of the op an engine was built with. 1: neighbouring pairs, general 2x2 matrices,
// all of D rotated.
constexpr std::int32_t kContract = 1;

struct Parameters {
  std::int32_t contract = kContract;
};

// Read what an ONNX node gives (kBUILD: nothing is needed) or what an engine holds (kRUNTIME: all
// fields are). Empty, with a message, for an unknown field or a wrong type, length or value.
std::optional<Parameters> read_parameters(const nvinfer1::PluginFieldCollection* fields,
                                          nvinfer1::TensorRTPhase phase) noexcept;

// Fields as TensorRT serialises them; they point into the parameters that they were made from.
class SerializedParameters {
 public:
  explicit SerializedParameters(const Parameters& parameters) noexcept;
  SerializedParameters(const SerializedParameters&) = delete;
  SerializedParameters& operator=(const SerializedParameters&) = delete;

  const nvinfer1::PluginFieldCollection* fields() const noexcept { return &collection_; }

 private:
  nvinfer1::PluginField field_;
  nvinfer1::PluginFieldCollection collection_;
};

}  // namespace ropeexport
