// What a plugin instance is made from, in an ONNX node, in an engine file and in memory.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <optional>

#include "form.h"

namespace ropeexport {

// Which definition of the op an engine was built with. 1: neighbouring pairs, general 2x2 matrices,
// all of D rotated.
constexpr std::int32_t kContract = 1;

struct Parameters {
  std::int32_t contract = kContract;
  // Of forms that norm.
  float epsilon = 0.0F;
  std::int32_t axis = -1;       // -1: each row by itself; -2: all heads of a token together
  std::int32_t transposed = 0;  // 1: the data comes as (B, L, H, D)
};

// Read what an ONNX node gives (kBUILD: epsilon, axis and perm of a form that norms, else nothing
// is needed) or what an engine holds (kRUNTIME: all fields are). Empty, with a message, for an
// unknown field or a wrong type, length or value.
std::optional<Parameters> read_parameters(const Form& form,
                                          const nvinfer1::PluginFieldCollection* fields,
                                          nvinfer1::TensorRTPhase phase) noexcept;

// The attributes of an ONNX node that are read.
const nvinfer1::PluginFieldCollection* attribute_names(const Form& form) noexcept;

// Fields as TensorRT serialises them; they point into the parameters that they were made from.
class SerializedParameters {
 public:
  SerializedParameters(const Form& form, const Parameters& parameters) noexcept;
  SerializedParameters(const SerializedParameters&) = delete;
  SerializedParameters& operator=(const SerializedParameters&) = delete;

  const nvinfer1::PluginFieldCollection* fields() const noexcept { return &collection_; }

 private:
  nvinfer1::PluginField fields_[4];
  nvinfer1::PluginFieldCollection collection_;
};

}  // namespace ropeexport
