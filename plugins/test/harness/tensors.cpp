#include "tensors.h"

namespace harness {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::TensorFormat;

Dims dims(std::initializer_list<std::int64_t> sizes) {
  Dims result{};
  for (const std::int64_t size : sizes) result.d[result.nbDims++] = size;
  return result;
}

Shapes shapes(const Sizes& s) {
  return {dims({s.batch, s.q_heads, s.length, s.head_size}),
          dims({s.batch, s.k_heads, s.length, s.head_size}),
          dims({s.pe_batch, s.pe_heads, s.length, s.head_size < 0 ? -1 : s.head_size / 2, 2, 2})};
}

StaticTensors static_tensors(const Shapes& s, DataType type) {
  const auto describe = [](const Dims& d, DataType t) {
    return nvinfer1::PluginTensorDesc{d, t, TensorFormat::kLINEAR, 0.0F};
  };
  return {describe(s.q, type), describe(s.k, type), describe(s.pe, DataType::kFLOAT),
          describe(s.q, type), describe(s.k, type)};
}

DynamicTensors dynamic_tensors(const Shapes& known, const Shapes& min, const Shapes& max,
                               DataType type) {
  const StaticTensors described = static_tensors(known, type);
  const std::array<Dims, 5> least{min.q, min.k, min.pe, min.q, min.k};
  const std::array<Dims, 5> most{max.q, max.k, max.pe, max.q, max.k};
  DynamicTensors result{};
  for (std::size_t i = 0; i < result.size(); ++i) {
    result[i] = {described[i], least[i], most[i], most[i]};
  }
  return result;
}

class ShapeExpressions::Expression final : public nvinfer1::IDimensionExpr,
                                           public nvinfer1::apiv::VDimensionExpr {
 public:
  explicit Expression(std::int64_t value) : value_(value) { mImpl = this; }
  bool isConstant() const override { return value_ >= 0; }
  std::int64_t getConstantValue() const override { return value_; }
  bool isSizeTensor() const override { return false; }

 private:
  std::int64_t value_;
};

// The outputs of this op have the shapes of its inputs: nothing is to be built.
class ShapeExpressions::Builder final : public nvinfer1::IExprBuilder {
 public:
  Builder() { mImpl = nullptr; }
};

ShapeExpressions::ShapeExpressions(const Shapes& shapes) : builder_(new Builder) {
  const std::array<Dims, 3> all{shapes.q, shapes.k, shapes.pe};
  for (std::size_t tensor = 0; tensor < all.size(); ++tensor) {
    inputs_[tensor].nbDims = all[tensor].nbDims;
    for (std::int32_t axis = 0; axis < all[tensor].nbDims; ++axis) {
      expressions_.emplace_back(new Expression(all[tensor].d[axis]));
      inputs_[tensor].d[axis] = expressions_.back().get();
    }
  }
}

ShapeExpressions::~ShapeExpressions() = default;

nvinfer1::IExprBuilder& ShapeExpressions::builder() { return *builder_; }

std::vector<NamedShapes> wrong_shapes() {
  const auto changed = [](auto change) {
    Shapes s = shapes(Sizes{});
    change(s);
    return s;
  };
  return {
      {"q without heads", changed([](Shapes& s) { s.q = dims({2, 6, 8}); })},
      {"pe of five axes", changed([](Shapes& s) { s.pe = dims({1, 6, 4, 2, 2}); })},
      {"an odd head size", changed([](Shapes& s) { s.q.d[3] = s.k.d[3] = 7; })},
      {"k of another batch", changed([](Shapes& s) { s.k.d[0] = 3; })},
      {"k of another length", changed([](Shapes& s) { s.k.d[2] = 5; })},
      {"k of another head size", changed([](Shapes& s) { s.k.d[3] = 6; })},
      {"pe of another batch", changed([](Shapes& s) { s.pe.d[0] = 3; })},
      {"pe of other heads", changed([](Shapes& s) { s.pe.d[1] = 3; })},
      {"pe of q's heads, not of k's", shapes({2, 4, 2, 6, 8, 1, 4})},
      {"pe of another length", changed([](Shapes& s) { s.pe.d[2] = 5; })},
      {"pe of other pairs", changed([](Shapes& s) { s.pe.d[3] = 3; })},
      {"matrices of three rows", changed([](Shapes& s) { s.pe.d[4] = 3; })},
      {"matrices of three columns", changed([](Shapes& s) { s.pe.d[5] = 3; })},
  };
}

std::vector<NamedShapes> right_shapes() {
  return {
      {"one batch of matrices", shapes(Sizes{})},
      {"matrices of each batch", shapes({2, 4, 4, 6, 8, 2, 1})},
      {"matrices of each head", shapes({2, 4, 4, 6, 8, 1, 4})},
      {"grouped heads", shapes({2, 4, 2, 6, 8, 2, 1})},
      {"length zero", shapes({2, 4, 4, 0, 8, 1, 1})},
  };
}

}  // namespace harness
