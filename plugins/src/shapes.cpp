#include "shapes.h"

#include <array>
#include <cstdio>
#include <utility>

#include "log.h"
#include "ropeexport/params.cuh"

namespace ropeexport {
namespace {

using nvinfer1::Dims;

// Axes of q and k, of pe, and of cos and sin.
enum { kBatch, kHeads, kLength, kSize, kRow, kColumn };
enum { kTableLength = 1, kTablePairs = 2 };

bool check_rank(const char* name, const Dims& dims, std::int32_t rank) noexcept {
  if (dims.nbDims == rank) return true;
  return refuse("%s: expected %d axes, got %d", name, static_cast<int>(rank),
                static_cast<int>(dims.nbDims));
}

bool agree(std::int64_t a, std::int64_t b) noexcept { return a < 0 || b < 0 || a == b; }

bool check_size(const char* what, std::int64_t expected, std::int64_t got) noexcept {
  if (agree(expected, got)) return true;
  return refuse("%s: expected %lld, got %lld", what, static_cast<long long>(expected),
                static_cast<long long>(got));
}

bool check_broadcast(const char* what, std::int64_t expected, std::int64_t got) noexcept {
  if (got == 1 || agree(expected, got)) return true;
  return refuse("%s: expected 1 or %lld, got %lld", what, static_cast<long long>(expected),
                static_cast<long long>(got));
}

bool check_data(const Form& form, const Dims* inputs) noexcept {
  const Dims& q = inputs[0];
  if (!check_rank("q", q, 4)) return false;
  if (q.d[kSize] >= 0 && q.d[kSize] % 2 != 0) {
    return refuse("head size of q: expected an even number, got %lld",
                  static_cast<long long>(q.d[kSize]));
  }
  if (form.rotated == 1) return true;
  const Dims& k = inputs[1];
  return check_rank("k", k, 4) && check_size("batch of k, as of q", q.d[kBatch], k.d[kBatch]) &&
         check_size("length of k, as of q", q.d[kLength], k.d[kLength]) &&
         check_size("head size of k, as of q", q.d[kSize], k.d[kSize]);
}

std::int64_t pairs_of(const Dims& q) noexcept { return q.d[kSize] < 0 ? -1 : q.d[kSize] / 2; }

bool check_matrices(const Form& form, const Dims* inputs) noexcept {
  const Dims& q = inputs[0];
  const Dims& pe = inputs[form.coefficients()];
  if (!check_rank("pe", pe, 6)) return false;
  if (form.rotated == 2 &&
      !check_broadcast("heads of pe, as of k", inputs[1].d[kHeads], pe.d[kHeads])) {
    return false;
  }
  return check_broadcast("batch of pe", q.d[kBatch], pe.d[kBatch]) &&
         check_broadcast("heads of pe, as of q", q.d[kHeads], pe.d[kHeads]) &&
         check_size("length of pe, as of q", q.d[kLength], pe.d[kLength]) &&
         check_size("pairs of pe, half the head size", pairs_of(q), pe.d[kSize]) &&
         check_size("rows of pe's matrices", 2, pe.d[kRow]) &&
         check_size("columns of pe's matrices", 2, pe.d[kColumn]);
}

bool check_pairs(const Form& form, const Dims& q, const Dims& cos) noexcept {
  const std::int64_t pairs = pairs_of(q);
  if (!form.partial) {
    return check_size("pairs of cos, half the head size", pairs, cos.d[kTablePairs]);
  }
  const std::int64_t got = cos.d[kTablePairs];
  if (got != 0 && (pairs < 0 || got <= pairs)) return true;
  return refuse("pairs of cos: expected 1 to %lld, half the head size, got %lld",
                static_cast<long long>(pairs), static_cast<long long>(got));
}

bool check_tables(const Form& form, const Dims* inputs) noexcept {
  const Dims& q = inputs[0];
  const Dims& cos = inputs[form.coefficients()];
  const Dims& sin = inputs[form.coefficients() + 1];
  return check_rank("cos", cos, 3) && check_rank("sin", sin, 3) &&
         check_broadcast("batch of cos", q.d[kBatch], cos.d[kBatch]) &&
         check_size("length of cos, as of q", q.d[kLength], cos.d[kTableLength]) &&
         check_pairs(form, q, cos) &&
         check_size("batch of sin, as of cos", cos.d[kBatch], sin.d[kBatch]) &&
         check_size("length of sin, as of cos", cos.d[kTableLength], sin.d[kTableLength]) &&
         check_size("pairs of sin, as of cos", cos.d[kTablePairs], sin.d[kTablePairs]);
}

bool check_normed(const char* name, const Dims& scale) noexcept {
  const std::int64_t heads = scale.nbDims == 2 ? scale.d[0] : 1;
  const std::int64_t size = scale.d[scale.nbDims - 1];
  if (heads <= 0 || size <= 0 || size <= kMostNormed / heads) return true;
  return refuse("elements of %s: expected at most %lld that are normed together, got %lld by %lld",
                name, static_cast<long long>(kMostNormed), static_cast<long long>(heads),
                static_cast<long long>(size));
}

// Of each row (D,), of all heads of a token (H, D).
bool check_scale(const Parameters& parameters, const char* name, const Dims& scale,
                 const Dims& data) noexcept {
  char what[64];
  const std::int32_t rank = -parameters.axis;
  if (!check_rank(name, scale, rank)) return false;
  if (rank == 2) {
    std::snprintf(what, sizeof(what), "heads of %s", name);
    if (!check_size(what, data.d[kHeads], scale.d[0])) return false;
  }
  std::snprintf(what, sizeof(what), "size of %s, the head size", name);
  return check_size(what, data.d[kSize], scale.d[rank - 1]) && check_normed(name, scale);
}

bool check_scales(const Form& form, const Parameters& parameters, const Dims* inputs) noexcept {
  constexpr const char* kNames[] = {"q_scale", "k_scale"};
  for (std::int32_t i = 0; form.normed && i < form.rotated; ++i) {
    if (!check_scale(parameters, kNames[i], inputs[form.scales() + i], inputs[i])) return false;
  }
  return true;
}

bool check_scale_types(const Form& form, const nvinfer1::DataType* inputs) noexcept {
  for (std::int32_t i = form.scales(); i < form.inputs(); ++i) {
    if (is_scale_type(inputs[i], inputs[0])) continue;
    return refuse("type of %s: expected that of q, TensorRT's type %d, or float32, got %d",
                  i == form.scales() ? "q_scale" : "k_scale", static_cast<int>(inputs[0]),
                  static_cast<int>(inputs[i]));
  }
  return true;
}

}  // namespace

bool check_counts(const Form& form, std::int32_t inputs, std::int32_t outputs) noexcept {
  if (inputs == form.inputs() && outputs == form.outputs()) return true;
  const char* const scales = form.rotated == 2 ? ", q_scale, k_scale" : ", q_scale";
  return refuse("expected %d inputs (%s, %s%s) and %d outputs, got %d and %d",
                static_cast<int>(form.inputs()), form.rotated == 2 ? "q, k" : "q",
                form.tables ? "cos, sin" : "pe", form.normed ? scales : "",
                static_cast<int>(form.outputs()), static_cast<int>(inputs),
                static_cast<int>(outputs));
}

Dims heads_first(const Parameters& parameters, const Dims& given) noexcept {
  Dims dims = given;
  if (parameters.transposed && dims.nbDims == 4) std::swap(dims.d[1], dims.d[2]);
  return dims;
}

bool check_shapes(const Form& form, const Parameters& parameters, const Dims* given) noexcept {
  std::array<Dims, kMostInputs> inputs{};
  for (std::int32_t i = 0; i < form.inputs(); ++i) {
    inputs[i] = i < form.rotated ? heads_first(parameters, given[i]) : given[i];
  }
  return check_data(form, inputs.data()) &&
         (form.tables ? check_tables(form, inputs.data()) : check_matrices(form, inputs.data())) &&
         check_scales(form, parameters, inputs.data());
}

bool is_data_type(nvinfer1::DataType type) noexcept {
  return type == nvinfer1::DataType::kFLOAT || type == nvinfer1::DataType::kHALF ||
         type == nvinfer1::DataType::kBF16;
}

bool is_scale_type(nvinfer1::DataType type, nvinfer1::DataType data) noexcept {
  return type == data || type == nvinfer1::DataType::kFLOAT;
}

bool check_types(const Form& form, const nvinfer1::DataType* inputs) noexcept {
  if (!is_data_type(inputs[0])) {
    return refuse("type of q: expected float32, float16 or bfloat16, got TensorRT's type %d",
                  static_cast<int>(inputs[0]));
  }
  if (form.rotated == 2 && inputs[1] != inputs[0]) {
    return refuse("type of k: expected that of q, TensorRT's type %d, got %d",
                  static_cast<int>(inputs[0]), static_cast<int>(inputs[1]));
  }
  for (std::int32_t i = form.coefficients(); i < form.scales(); ++i) {
    if (inputs[i] == nvinfer1::DataType::kFLOAT) continue;
    const char* const name = !form.tables ? "pe" : i == form.coefficients() ? "cos" : "sin";
    return refuse("type of %s: expected float32, got TensorRT's type %d", name,
                  static_cast<int>(inputs[i]));
  }
  return check_scale_types(form, inputs);
}

}  // namespace ropeexport
