// The plugin's inputs and outputs, described as TensorRT describes them.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "forms.h"

namespace harness {

// A form, and what the attributes of a node say, which only forms that norm have.
struct Form : ropeexport::Form {
  std::int32_t axis = -1;
  bool transposed = false;  // the data comes as (B, L, H, D)
};

nvinfer1::Dims dims(std::initializer_list<std::int64_t> sizes);

struct Sizes {
  std::int64_t batch = 2;
  std::int64_t q_heads = 4;
  std::int64_t k_heads = 4;
  std::int64_t length = 6;
  std::int64_t head_size = 8;
  std::int64_t pe_batch = 1;
  std::int64_t pe_heads = 1;
};

struct Shapes {
  nvinfer1::Dims q, k, pe, cos, sin;  // q and k (B, H, L, D), however they come
  nvinfer1::Dims q_scale, k_scale;    // (H, D), of which a norm of rows has the last axis

  // Those that a form has, in its order.
  std::vector<nvinfer1::Dims> inputs(const Form& form) const;
  std::vector<nvinfer1::Dims> outputs(const Form& form) const;
};
Shapes shapes(const Sizes& sizes);

// Shapes that the op takes, and shapes that it does not, by what is wrong with them.
using NamedShapes = std::pair<const char*, Shapes>;
std::vector<NamedShapes> right_shapes(const Form& form);
std::vector<NamedShapes> wrong_shapes(const Form& form);

// A form's inputs, and then its outputs.
using StaticTensors = std::vector<nvinfer1::PluginTensorDesc>;
using DynamicTensors = std::vector<nvinfer1::DynamicPluginTensorDesc>;
StaticTensors static_tensors(const Form& form, const Shapes& shapes, nvinfer1::DataType type);
DynamicTensors dynamic_tensors(const Form& form, const Shapes& known, const Shapes& min,
                               const Shapes& max, nvinfer1::DataType type);

// Shapes as expressions; a size of -1 is one that is not constant.
class ShapeExpressions {
 public:
  ShapeExpressions(const Form& form, const Shapes& shapes);
  ~ShapeExpressions();
  const nvinfer1::DimsExprs* inputs() const { return inputs_.data(); }
  nvinfer1::IExprBuilder& builder();

 private:
  class Expression;
  class Builder;
  std::vector<std::unique_ptr<Expression>> expressions_;
  std::vector<nvinfer1::DimsExprs> inputs_;
  std::unique_ptr<Builder> builder_;
};

}  // namespace harness
