#include "shapes.h"

#include "log.h"

namespace ropeexport {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;

// Axes of q and k, and of pe.
enum { kBatch, kHeads, kLength, kSize, kRow, kColumn };

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

bool check_data(const Dims& q, const Dims& k) noexcept {
  if (q.d[kSize] >= 0 && q.d[kSize] % 2 != 0) {
    return refuse("head size of q: expected an even number, got %lld",
                  static_cast<long long>(q.d[kSize]));
  }
  return check_size("batch of k, as of q", q.d[kBatch], k.d[kBatch]) &&
         check_size("length of k, as of q", q.d[kLength], k.d[kLength]) &&
         check_size("head size of k, as of q", q.d[kSize], k.d[kSize]);
}

bool check_matrices(const Dims& q, const Dims& k, const Dims& pe) noexcept {
  const std::int64_t pairs = q.d[kSize] < 0 ? -1 : q.d[kSize] / 2;
  return check_broadcast("batch of pe", q.d[kBatch], pe.d[kBatch]) &&
         check_broadcast("heads of pe, as of q", q.d[kHeads], pe.d[kHeads]) &&
         check_broadcast("heads of pe, as of k", k.d[kHeads], pe.d[kHeads]) &&
         check_size("length of pe, as of q", q.d[kLength], pe.d[kLength]) &&
         check_size("pairs of pe, half the head size", pairs, pe.d[kSize]) &&
         check_size("rows of pe's matrices", 2, pe.d[kRow]) &&
         check_size("columns of pe's matrices", 2, pe.d[kColumn]);
}

}  // namespace

bool check_counts(std::int32_t inputs, std::int32_t outputs) noexcept {
  if (inputs == kInputs && outputs == kOutputs) return true;
  return refuse("expected %d inputs (q, k, pe) and %d outputs, got %d and %d",
                static_cast<int>(kInputs), static_cast<int>(kOutputs), static_cast<int>(inputs),
                static_cast<int>(outputs));
}

bool check_shapes(const Dims& q, const Dims& k, const Dims& pe) noexcept {
  return check_rank("q", q, 4) && check_rank("k", k, 4) && check_rank("pe", pe, 6) &&
         check_data(q, k) && check_matrices(q, k, pe);
}

bool is_data_type(DataType type) noexcept {
  return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

bool check_types(DataType q, DataType k, DataType pe) noexcept {
  if (!is_data_type(q)) {
    return refuse("type of q: expected float32, float16 or bfloat16, got TensorRT's type %d",
                  static_cast<int>(q));
  }
  if (k != q) {
    return refuse("type of k: expected that of q, TensorRT's type %d, got %d", static_cast<int>(q),
                  static_cast<int>(k));
  }
  return pe == DataType::kFLOAT ||
         refuse("type of pe: expected float32, got TensorRT's type %d", static_cast<int>(pe));
}

}  // namespace ropeexport
