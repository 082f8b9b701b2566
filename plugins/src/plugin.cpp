#include "plugin.h"

#include <new>

#include "identity.h"
#include "launch.h"
#include "log.h"
#include "shapes.h"

namespace ropeexport {
namespace {

// Every name but our own DataType, which TensorRT has as well.
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

enum { kQ, kK, kPe };  // inputs; the outputs are q and k again

constexpr std::int32_t kDone = 0;
constexpr std::int32_t kRefused = -1;

std::int32_t status_of(bool accepted) noexcept { return accepted ? kDone : kRefused; }

Dims known_sizes(const DimsExprs& shape) noexcept {
  Dims dims{};
  dims.nbDims = shape.nbDims;
  for (std::int32_t i = 0; i < shape.nbDims; ++i) {
    dims.d[i] = shape.d[i]->isConstant() ? shape.d[i]->getConstantValue() : -1;
  }
  return dims;
}

DataType data_type(nvinfer1::DataType type) noexcept {
  if (type == nvinfer1::DataType::kHALF) return DataType::kFloat16;
  return type == nvinfer1::DataType::kBF16 ? DataType::kBFloat16 : DataType::kFloat32;
}

// A dense (B, H, L, D) tensor.
Rotated rotated(const Dims& dims, const void* in, void* out) noexcept {
  const Strides strides = dense_strides(dims.d[1], dims.d[2], dims.d[3]);
  return {in, out, dims.d[1], strides, strides};
}

Coefficients coefficients(const Dims& dims, const void* data) noexcept {
  const std::int64_t row = dims.d[3] * dims.d[4] * dims.d[5];
  return {static_cast<const float*>(data), nullptr, dims.d[0], dims.d[1],
          dense_strides(dims.d[1], dims.d[2], row)};
}

}  // namespace

nvinfer1::IPluginCapability* ApplyRopePlugin::getCapabilityInterface(
    PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  refuse("capability: expected core, build or runtime, got %d", static_cast<int>(type));
  return nullptr;
}

nvinfer1::IPluginV3* ApplyRopePlugin::clone() noexcept {
  auto* const copy = new (std::nothrow) ApplyRopePlugin(parameters_);
  if (!copy) refuse("no memory for a copy of the plugin");
  return copy;
}

const char* ApplyRopePlugin::getPluginName() const noexcept { return kPluginName; }
const char* ApplyRopePlugin::getPluginVersion() const noexcept { return kPluginVersion; }
const char* ApplyRopePlugin::getPluginNamespace() const noexcept { return kPluginNamespace; }

std::int32_t ApplyRopePlugin::getNbOutputs() const noexcept { return kOutputs; }

std::int32_t ApplyRopePlugin::getOutputDataTypes(nvinfer1::DataType* outputs,
                                                 std::int32_t output_count,
                                                 const nvinfer1::DataType* inputs,
                                                 std::int32_t input_count) const noexcept {
  if (!check_counts(input_count, output_count)) return kRefused;
  outputs[kQ] = inputs[kQ];
  outputs[kK] = inputs[kK];
  return status_of(check_types(inputs[kQ], inputs[kK], inputs[kPe]));
}

std::int32_t ApplyRopePlugin::getOutputShapes(const DimsExprs* inputs, std::int32_t input_count,
                                              const DimsExprs*, std::int32_t, DimsExprs* outputs,
                                              std::int32_t output_count,
                                              nvinfer1::IExprBuilder&) noexcept {
  if (!check_counts(input_count, output_count)) return kRefused;
  outputs[kQ] = inputs[kQ];
  outputs[kK] = inputs[kK];
  return status_of(
      check_shapes(known_sizes(inputs[kQ]), known_sizes(inputs[kK]), known_sizes(inputs[kPe])));
}

// TensorRT asks for many combinations to find one: a "no" is no fault and is not logged.
bool ApplyRopePlugin::supportsFormatCombination(std::int32_t position,
                                                const DynamicPluginTensorDesc* tensors,
                                                std::int32_t input_count,
                                                std::int32_t output_count) noexcept {
  if (!check_counts(input_count, output_count)) return false;
  const PluginTensorDesc& tensor = tensors[position].desc;
  if (tensor.format != TensorFormat::kLINEAR) return false;
  if (position == kQ) return is_data_type(tensor.type);
  return tensor.type == (position == kPe ? nvinfer1::DataType::kFLOAT : tensors[kQ].desc.type);
}

std::int32_t ApplyRopePlugin::configurePlugin(const DynamicPluginTensorDesc* inputs,
                                              std::int32_t input_count,
                                              const DynamicPluginTensorDesc*,
                                              std::int32_t output_count) noexcept {
  if (!check_counts(input_count, output_count)) return kRefused;
  return status_of(
      check_types(inputs[kQ].desc.type, inputs[kK].desc.type, inputs[kPe].desc.type) &&
      check_shapes(inputs[kQ].desc.dims, inputs[kK].desc.dims, inputs[kPe].desc.dims) &&
      check_shapes(inputs[kQ].min, inputs[kK].min, inputs[kPe].min) &&
      check_shapes(inputs[kQ].max, inputs[kK].max, inputs[kPe].max));
}

std::size_t ApplyRopePlugin::getWorkspaceSize(const DynamicPluginTensorDesc*, std::int32_t,
                                              const DynamicPluginTensorDesc*,
                                              std::int32_t) const noexcept {
  return 0;
}

std::int32_t ApplyRopePlugin::onShapeChange(const PluginTensorDesc* inputs,
                                            std::int32_t input_count, const PluginTensorDesc*,
                                            std::int32_t output_count) noexcept {
  if (!check_counts(input_count, output_count)) return kRefused;
  return status_of(check_types(inputs[kQ].type, inputs[kK].type, inputs[kPe].type) &&
                   check_shapes(inputs[kQ].dims, inputs[kK].dims, inputs[kPe].dims));
}

std::int32_t ApplyRopePlugin::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc*,
                                      const void* const* inputs, void* const* outputs, void*,
                                      cudaStream_t stream) noexcept {
  const Dims& q = input_descs[kQ].dims;
  ApplyRopeParams params;
  params.type = data_type(input_descs[kQ].type);
  params.batch = q.d[0];
  params.length = q.d[2];
  params.head_size = q.d[3];
  params.q = rotated(q, inputs[kQ], outputs[kQ]);
  params.k = rotated(input_descs[kK].dims, inputs[kK], outputs[kK]);
  params.pe = coefficients(input_descs[kPe].dims, inputs[kPe]);
  const cudaError_t status = enqueue_apply_rope(params, stream);
  return status_of(status == cudaSuccess ||
                   refuse("the launch failed: %s", cudaGetErrorString(status)));
}

nvinfer1::IPluginV3* ApplyRopePlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  return clone();
}

const nvinfer1::PluginFieldCollection* ApplyRopePlugin::getFieldsToSerialize() noexcept {
  return serialized_.fields();
}

}  // namespace ropeexport
