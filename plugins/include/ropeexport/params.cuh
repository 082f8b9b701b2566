// What a launch is told: sizes, strides and raw pointers. No CUDA, no framework.
//
// B batch, H heads, L length, D head size (even), R = rotary size, the leading part of D that is
// rotated. Strides count elements of the tensor's own type; the last axis is contiguous.
#pragma once

#include <cstdint>

namespace ropeexport {

enum class DataType : std::int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

struct Strides {
  std::int64_t batch;
  std::int64_t head;
  std::int64_t length;
};

// A (B, heads, L, D) tensor, read at `in` and written at `out`, which may be the same array with
// the same strides but may not overlap it in any other way. No heads: there is no such tensor.
struct Rotated {
  const void* in = nullptr;
  void* out = nullptr;
  std::int64_t heads = 0;
  Strides in_strides{};
  Strides out_strides{};
};

// What the pairs are multiplied by, float32, never written.
//   matrices: `first` is (batch, heads, L, R/2, 2, 2), [[m00, m01], [m10, m11]] of each pair.
//   tables:   `first` is cos, `second` is sin, (batch, heads, L, R/2) each, one set of strides.
// Strides count floats.
struct Coefficients {
  const float* first = nullptr;
  const float* second = nullptr;
  std::int64_t batch = 1;  // 1 or B
  std::int64_t heads = 1;  // 1, or the number of heads of q and of k
  Strides strides{};
};

struct ApplyRopeParams {
  DataType type = DataType::kFloat32;  // of q and k
  std::int64_t batch = 0;
  std::int64_t length = 0;
  std::int64_t head_size = 0;
  std::int64_t rotary_size = 0;  // 0: all of head_size
  Rotated q{};
  Rotated k{};
  Coefficients pe{};
};

// What rows are multiplied by after they are normed. Of a row (D,), or of all heads of a token
// (heads, D), dense. float32 beside data of half the size: rounded once, after the scale; of the
// data's type: rounded before the scale and after it.
struct Scale {
  const void* values = nullptr;
  DataType type = DataType::kFloat32;
};

// Of elements that are normed together: float32 counts them exactly.
constexpr std::int64_t kMostNormed = std::int64_t{1} << 24;

// What ApplyRopeParams says, of rows that are normed first: y = x / sqrt(mean(x * x) + epsilon),
// times the scale; the mean is of a row, or of all heads of a token. What is not rotated of a row
// is normed as well.
struct NormRopeParams {
  ApplyRopeParams rope{};
  Scale q_scale{};
  Scale k_scale{};
  float epsilon = 0.0F;
  bool across_heads = false;
};

// How the work is cut. A wave is what a GPU holds at once: its multiprocessors times the blocks
// that each has place for.
struct Tuning {
  // Of a launch, 2^30 at most; more columns become several launches.
  std::int64_t most_columns = std::int64_t{1} << 30;
  // Blocks below which a thread gets fewer heads, so that there are more threads; 0: from the wave
  // of the GPU, see work.cuh.
  std::int64_t enough_blocks = 0;
  std::int64_t most_heads_per_thread = 12;
};

// Strides of a dense (…, heads, length, row) tensor.
constexpr Strides dense_strides(std::int64_t heads, std::int64_t length, std::int64_t row) {
  return {heads * length * row, length * row, row};
}

}  // namespace ropeexport
