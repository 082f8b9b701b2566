#include "plugin.h"

#include <array>
#include <new>
#include <utility>

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

enum { kQ, kK };  // the data among the inputs, and the outputs

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

// The shapes, or the types, of a form's inputs.
template <class Get>
auto of_inputs(const Form& form, Get get) noexcept {
  std::array<decltype(get(0)), kMostInputs> all{};
  for (std::int32_t i = 0; i < form.inputs(); ++i) all[i] = get(i);
  return all;
}

DataType data_type(nvinfer1::DataType type) noexcept {
  if (type == nvinfer1::DataType::kHALF) return DataType::kFloat16;
  return type == nvinfer1::DataType::kBF16 ? DataType::kBFloat16 : DataType::kFloat32;
}

// A dense tensor of (B, H, L, D), or one that comes as (B, L, H, D) and becomes it.
Rotated rotated(const Parameters& parameters, const Dims& dims, const void* in,
                void* out) noexcept {
  const std::int64_t heads = dims.d[1];
  const std::int64_t length = dims.d[2];
  const std::int64_t row = dims.d[3];
  const Strides dense = dense_strides(heads, length, row);
  const Strides transposed{length * heads * row, row, heads * row};
  return {in, out, heads, parameters.transposed ? transposed : dense, dense};
}

Scale scale(const PluginTensorDesc& desc, const void* values) noexcept {
  return {values, data_type(desc.type)};
}

// pe (B or 1, H or 1, L, D/2, 2, 2).
Coefficients matrices(const Dims& dims, const void* pe) noexcept {
  const std::int64_t row = dims.d[3] * dims.d[4] * dims.d[5];
  return {static_cast<const float*>(pe), nullptr, dims.d[0], dims.d[1],
          dense_strides(dims.d[1], dims.d[2], row)};
}

// cos and sin (B or 1, L, P).
Coefficients tables(const Dims& dims, const void* cos, const void* sin) noexcept {
  return {static_cast<const float*>(cos), static_cast<const float*>(sin), dims.d[0], 1,
          dense_strides(1, dims.d[1], dims.d[2])};
}

}  // namespace

nvinfer1::IPluginCapability* RopePlugin::getCapabilityInterface(
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

nvinfer1::IPluginV3* RopePlugin::clone() noexcept {
  auto* const copy = new (std::nothrow) RopePlugin(form_, parameters_);
  if (!copy) refuse("no memory for a copy of the plugin");
  return copy;
}

const char* RopePlugin::getPluginName() const noexcept { return form_.name; }
const char* RopePlugin::getPluginVersion() const noexcept { return kPluginVersion; }
const char* RopePlugin::getPluginNamespace() const noexcept { return kPluginNamespace; }

std::int32_t RopePlugin::getNbOutputs() const noexcept { return form_.outputs(); }

std::int32_t RopePlugin::getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t output_count,
                                            const nvinfer1::DataType* inputs,
                                            std::int32_t input_count) const noexcept {
  if (!check_counts(form_, input_count, output_count)) return kRefused;
  for (std::int32_t i = 0; i < form_.outputs(); ++i) outputs[i] = inputs[i];
  return status_of(check_types(form_, inputs));
}

std::int32_t RopePlugin::getOutputShapes(const DimsExprs* inputs, std::int32_t input_count,
                                         const DimsExprs*, std::int32_t, DimsExprs* outputs,
                                         std::int32_t output_count,
                                         nvinfer1::IExprBuilder&) noexcept {
  if (!check_counts(form_, input_count, output_count)) return kRefused;
  for (std::int32_t i = 0; i < form_.outputs(); ++i) {
    outputs[i] = inputs[i];
    if (parameters_.transposed && inputs[i].nbDims == 4) {
      std::swap(outputs[i].d[1], outputs[i].d[2]);
    }
  }
  const auto shapes = of_inputs(form_, [&](std::int32_t i) { return known_sizes(inputs[i]); });
  return status_of(check_shapes(form_, parameters_, shapes.data()));
}

// TensorRT asks for many combinations to find one: a "no" is no fault and is not logged.
bool RopePlugin::supportsFormatCombination(std::int32_t position,
                                           const DynamicPluginTensorDesc* tensors,
                                           std::int32_t input_count,
                                           std::int32_t output_count) noexcept {
  if (!check_counts(form_, input_count, output_count)) return false;
  const PluginTensorDesc& tensor = tensors[position].desc;
  if (tensor.format != TensorFormat::kLINEAR) return false;
  if (position == kQ) return is_data_type(tensor.type);
  if (position >= form_.scales() && position < form_.inputs()) {
    return is_scale_type(tensor.type, tensors[kQ].desc.type);
  }
  const bool is_coefficient = position >= form_.coefficients() && position < form_.scales();
  return tensor.type == (is_coefficient ? nvinfer1::DataType::kFLOAT : tensors[kQ].desc.type);
}

// Only what is known is compared. The bounds of a profile are chosen for each input by itself: the
// least length of q need not be that of pe. What is run is checked by onShapeChange.
std::int32_t RopePlugin::configurePlugin(const DynamicPluginTensorDesc* inputs,
                                         std::int32_t input_count, const DynamicPluginTensorDesc*,
                                         std::int32_t output_count) noexcept {
  if (!check_counts(form_, input_count, output_count)) return kRefused;
  const auto types = of_inputs(form_, [&](std::int32_t i) { return inputs[i].desc.type; });
  const auto known = of_inputs(form_, [&](std::int32_t i) { return inputs[i].desc.dims; });
  return status_of(check_types(form_, types.data()) &&
                   check_shapes(form_, parameters_, known.data()));
}

std::size_t RopePlugin::getWorkspaceSize(const DynamicPluginTensorDesc*, std::int32_t,
                                         const DynamicPluginTensorDesc*,
                                         std::int32_t) const noexcept {
  return 0;
}

// Shapes and formats are in the cache's key; what else a plugin's time depends on is here. The
// base's null would have each layer timed again in each build.
const char* RopePlugin::getTimingCacheID() noexcept {
  if (parameters_.axis == -2) return "axis -2";
  return parameters_.transposed ? "transposed" : "";
}

std::int32_t RopePlugin::onShapeChange(const PluginTensorDesc* inputs, std::int32_t input_count,
                                       const PluginTensorDesc*,
                                       std::int32_t output_count) noexcept {
  if (!check_counts(form_, input_count, output_count)) return kRefused;
  const auto types = of_inputs(form_, [&](std::int32_t i) { return inputs[i].type; });
  const auto shapes = of_inputs(form_, [&](std::int32_t i) { return inputs[i].dims; });
  return status_of(check_types(form_, types.data()) &&
                   check_shapes(form_, parameters_, shapes.data()));
}

std::int32_t RopePlugin::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc*,
                                 const void* const* inputs, void* const* outputs, void*,
                                 cudaStream_t stream) noexcept {
  const Dims q = heads_first(parameters_, input_descs[kQ].dims);
  NormRopeParams norm;
  ApplyRopeParams& params = norm.rope;
  params.type = data_type(input_descs[kQ].type);
  params.batch = q.d[0];
  params.length = q.d[2];
  params.head_size = q.d[3];
  params.q = rotated(parameters_, q, inputs[kQ], outputs[kQ]);
  if (form_.rotated == 2) {
    const Dims k = heads_first(parameters_, input_descs[kK].dims);
    params.k = rotated(parameters_, k, inputs[kK], outputs[kK]);
  }
  const std::int32_t first = form_.coefficients();
  const Dims& pairs = input_descs[first].dims;
  params.pe = form_.tables ? tables(pairs, inputs[first], inputs[first + 1])
                           : matrices(pairs, inputs[first]);
  if (form_.partial) params.rotary_size = 2 * pairs.d[2];
  if (form_.normed) {
    const std::int32_t scales = form_.scales();
    norm.q_scale = scale(input_descs[scales], inputs[scales]);
    if (form_.rotated == 2) norm.k_scale = scale(input_descs[scales + 1], inputs[scales + 1]);
    norm.epsilon = parameters_.epsilon;
    norm.across_heads = parameters_.axis == -2;
  }
  const cudaError_t status =
      form_.normed ? enqueue_norm_rope(form_, norm, stream) : enqueue_rope(form_, params, stream);
  return status_of(status == cudaSuccess ||
                   refuse("the launch failed: %s", cudaGetErrorString(status)));
}

nvinfer1::IPluginV3* RopePlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  return clone();
}

const nvinfer1::PluginFieldCollection* RopePlugin::getFieldsToSerialize() noexcept {
  return serialized_.fields();
}

}  // namespace ropeexport
