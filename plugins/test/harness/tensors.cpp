#include "tensors.h"

#include <utility>

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
  const std::int64_t pairs = s.head_size < 0 ? -1 : s.head_size / 2;
  const Dims table = dims({s.pe_batch, s.length, pairs});
  return {dims({s.batch, s.q_heads, s.length, s.head_size}),
          dims({s.batch, s.k_heads, s.length, s.head_size}),
          dims({s.pe_batch, s.pe_heads, s.length, pairs, 2, 2}),
          table,
          table,
          dims({s.q_heads, s.head_size}),
          dims({s.k_heads, s.head_size})};
}

namespace {

Dims as_it_comes(const Form& form, Dims data) {
  if (form.transposed && data.nbDims == 4) std::swap(data.d[1], data.d[2]);
  return data;
}

Dims scale_of(const Form& form, const Dims& scale) {
  if (form.axis == -2) return scale;
  Dims row{};
  for (std::int32_t i = 1; i < scale.nbDims; ++i) row.d[row.nbDims++] = scale.d[i];
  return row;
}

}  // namespace

std::vector<Dims> Shapes::inputs(const Form& form) const {
  std::vector<Dims> all = outputs(form);
  for (Dims& data : all) data = as_it_comes(form, data);
  if (form.tables) {
    all.insert(all.end(), {cos, sin});
  } else {
    all.push_back(pe);
  }
  if (form.normed) all.push_back(scale_of(form, q_scale));
  if (form.normed && form.rotated == 2) all.push_back(scale_of(form, k_scale));
  return all;
}

std::vector<Dims> Shapes::outputs(const Form& form) const {
  return form.rotated == 2 ? std::vector<Dims>{q, k} : std::vector<Dims>{q};
}

StaticTensors static_tensors(const Form& form, const Shapes& s, DataType type) {
  StaticTensors all;
  const auto describe = [&](const Dims& d, DataType t) {
    all.push_back({d, t, TensorFormat::kLINEAR, 0.0F});
  };
  for (const Dims& d : s.inputs(form)) {
    const auto position = static_cast<std::int32_t>(all.size());
    const bool is_table = position >= form.coefficients() && position < form.scales();
    describe(d, is_table ? DataType::kFLOAT : type);
  }
  for (const Dims& d : s.outputs(form)) describe(d, type);
  return all;
}

DynamicTensors dynamic_tensors(const Form& form, const Shapes& known, const Shapes& min,
                               const Shapes& max, DataType type) {
  const StaticTensors described = static_tensors(form, known, type);
  const StaticTensors least = static_tensors(form, min, type);
  const StaticTensors most = static_tensors(form, max, type);
  DynamicTensors all;
  for (std::size_t i = 0; i < described.size(); ++i) {
    all.push_back({described[i], least[i].dims, most[i].dims, most[i].dims});
  }
  return all;
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

// The outputs of this op have sizes of its inputs: nothing is to be built.
class ShapeExpressions::Builder final : public nvinfer1::IExprBuilder {
 public:
  Builder() { mImpl = nullptr; }
};

ShapeExpressions::ShapeExpressions(const Form& form, const Shapes& shapes) : builder_(new Builder) {
  const std::vector<Dims> all = shapes.inputs(form);
  inputs_.resize(all.size());
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

std::vector<NamedShapes> wrong_shapes(const Form& form) {
  std::vector<NamedShapes> all;
  const auto add = [&](const char* what, auto change) {
    Shapes s = shapes(Sizes{});
    change(s);
    all.emplace_back(what, s);
  };
  add("q without heads", [](Shapes& s) { s.q = dims({2, 6, 8}); });
  add("an odd head size", [](Shapes& s) { s.q.d[3] = s.k.d[3] = 7; });
  if (form.rotated == 2) {
    add("k of another batch", [](Shapes& s) { s.k.d[0] = 3; });
    add("k of another length", [](Shapes& s) { s.k.d[2] = 5; });
    add("k of another head size", [](Shapes& s) { s.k.d[3] = 6; });
  }
  if (form.normed) {
    add("q_scale of another size", [](Shapes& s) { s.q_scale.d[1] = 6; });
    add("q_scale of one more axis", [](Shapes& s) { s.q_scale = dims({1, 4, 8}); });
    add("q_scale of one axis less", [](Shapes& s) { s.q_scale = dims({8}); });
    add("more elements than float32 counts", [](Shapes& s) {
      const std::int64_t pairs = (std::int64_t{1} << 23) + 1;
      s.q.d[3] = s.k.d[3] = s.q_scale.d[1] = s.k_scale.d[1] = 2 * pairs;
      s.cos.d[2] = s.sin.d[2] = s.pe.d[3] = pairs;
    });
  }
  if (form.normed && form.axis == -2) {
    add("q_scale of other heads", [](Shapes& s) { s.q_scale.d[0] = 1; });
  }
  if (form.normed && form.rotated == 2) {
    add("k_scale of another size", [](Shapes& s) { s.k_scale.d[1] = 1; });
  }
  if (form.normed && form.rotated == 2 && form.axis == -2) {
    add("k_scale of q's heads", [](Shapes& s) {
      s = shapes({2, 4, 2, 6, 8, 1, 1});
      s.k_scale = s.q_scale;
    });
  }
  if (form.tables) {
    add("cos of four axes", [](Shapes& s) { s.cos = dims({1, 1, 6, 4}); });
    add("sin of two axes", [](Shapes& s) { s.sin = dims({6, 4}); });
    add("cos of another batch", [](Shapes& s) { s.cos.d[0] = s.sin.d[0] = 3; });
    add("cos of another length", [](Shapes& s) { s.cos.d[1] = s.sin.d[1] = 5; });
    add("cos of more pairs", [](Shapes& s) { s.cos.d[2] = s.sin.d[2] = 5; });
    add("cos of no pair", [](Shapes& s) { s.cos.d[2] = s.sin.d[2] = 0; });
    add("sin of another batch", [](Shapes& s) { s.sin.d[0] = 2; });
    add("sin of another length", [](Shapes& s) { s.sin.d[1] = 5; });
    add("sin of other pairs", [](Shapes& s) { s.sin.d[2] = 3; });
    if (!form.partial) {
      add("cos of fewer pairs", [](Shapes& s) { s.cos.d[2] = s.sin.d[2] = 3; });
    }
    return all;
  }
  add("pe of five axes", [](Shapes& s) { s.pe = dims({1, 6, 4, 2, 2}); });
  add("pe of another batch", [](Shapes& s) { s.pe.d[0] = 3; });
  add("pe of other heads", [](Shapes& s) { s.pe.d[1] = 3; });
  if (form.rotated == 2) {
    add("pe of q's heads, not of k's", [](Shapes& s) { s = shapes({2, 4, 2, 6, 8, 1, 4}); });
  }
  add("pe of another length", [](Shapes& s) { s.pe.d[2] = 5; });
  add("pe of other pairs", [](Shapes& s) { s.pe.d[3] = 3; });
  add("matrices of three rows", [](Shapes& s) { s.pe.d[4] = 3; });
  add("matrices of three columns", [](Shapes& s) { s.pe.d[5] = 3; });
  return all;
}

std::vector<NamedShapes> right_shapes(const Form& form) {
  std::vector<NamedShapes> all{
      {"one batch of coefficients", shapes(Sizes{})},
      {"coefficients of each batch", shapes({2, 4, 4, 6, 8, 2, 1})},
      {"grouped heads", shapes({2, 4, 2, 6, 8, 2, 1})},
      {"length zero", shapes({2, 4, 4, 0, 8, 1, 1})},
  };
  if (!form.tables) all.emplace_back("matrices of each head", shapes({2, 4, 4, 6, 8, 1, 4}));
  if (form.partial) {
    Shapes part = shapes(Sizes{});
    part.cos.d[2] = part.sin.d[2] = 3;
    all.emplace_back("a part of a head", part);
  }
  return all;
}

}  // namespace harness
