// What a grid is told, and how a launch is cut into it. Everything here runs on the host.
//
// A column is what one thread holds of a row (see policies.cuh) at one batch and position; the
// thread goes through several heads of one tensor with it, and so reads its coefficients once. The
// blocks of all groups of heads of the same columns lie side by side in the grid, so that they
// find those coefficients in the L2.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ropeexport/divide.cuh"
#include "ropeexport/params.cuh"

namespace ropeexport {

constexpr int kThreads = 128;  // of a block
constexpr std::int64_t kMostBlocks = 0x7fffffff;
// Limits under which the blocks of one row, all heads, can be counted in 31 bits.
constexpr std::int64_t kMostHeadSize = std::int64_t{1} << 20;
constexpr std::int64_t kMostHeads = std::int64_t{1} << 16;  // of q, and of k

struct TensorWork {
  const char* in = nullptr;
  char* out = nullptr;
  Strides in_strides{};
  Strides out_strides{};
  std::int32_t heads = 0;
  std::int32_t heads_per_group = 1;
};

struct Work {
  TensorWork tensors[2];  // q, k
  Coefficients pe{};      // a stride of 0 where an axis is broadcast
  std::int64_t rotary_size = 0;
  std::uint32_t rotating_units = 0;  // of a row; the others are copied
  std::uint32_t columns = 0;
  std::uint32_t q_groups = 0;
  std::uint32_t blocks = 0;
  Divisor groups{};  // of q and k together
  Divisor units{};   // of a row
  Divisor length{};
};

// How a row is divided by a variant.
struct RowShape {
  std::int64_t units = 0;
  std::int64_t rotating_units = 0;
};

template <class V>
RowShape row_shape(const ApplyRopeParams& p) {
  const std::int64_t rotating = p.rotary_size / V::kElements;
  return {rotating + (p.head_size - p.rotary_size) / V::kElements, rotating};
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// As many heads a thread as are worth their wait, fewer where the GPU would have idle processors.
inline std::int64_t heads_per_thread(std::int64_t columns, std::int64_t heads, const Tuning& t) {
  const std::int64_t single = ceil_div(columns, kThreads) * heads;  // blocks, one head a thread
  return std::clamp<std::int64_t>(single / t.enough_blocks, 1, t.most_heads_per_thread);
}

// Balanced: 32 heads by at most 12 are 11, 11 and 10.
inline std::int64_t balanced_group(std::int64_t heads, std::int64_t most) {
  return heads == 0 ? 1 : ceil_div(heads, ceil_div(heads, most));
}

inline TensorWork tensor_work(const Rotated& x, std::int64_t most_heads) {
  return {static_cast<const char*>(x.in),
          static_cast<char*>(x.out),
          x.in_strides,
          x.out_strides,
          static_cast<std::int32_t>(x.heads),
          static_cast<std::int32_t>(balanced_group(x.heads, most_heads))};
}

inline Coefficients broadcast_strides(Coefficients pe) {
  if (pe.batch == 1) pe.strides.batch = 0;
  if (pe.heads == 1) pe.strides.head = 0;
  return pe;
}

// Cut a launch whose columns are known to fit, see slices.cuh.
template <class V>
Work make_work(const ApplyRopeParams& p, const Tuning& tuning) {
  const RowShape row = row_shape<V>(p);
  const std::int64_t columns = p.batch * p.length * row.units;
  const std::int64_t most = heads_per_thread(columns, p.q.heads + p.k.heads, tuning);
  Work work;
  work.tensors[0] = tensor_work(p.q, most);
  work.tensors[1] = tensor_work(p.k, most);
  const std::int64_t q_groups = ceil_div(p.q.heads, work.tensors[0].heads_per_group);
  const std::int64_t k_groups = ceil_div(p.k.heads, work.tensors[1].heads_per_group);
  work.pe = broadcast_strides(p.pe);
  work.rotary_size = p.rotary_size;
  work.rotating_units = static_cast<std::uint32_t>(row.rotating_units);
  work.columns = static_cast<std::uint32_t>(columns);
  work.q_groups = static_cast<std::uint32_t>(q_groups);
  work.blocks = static_cast<std::uint32_t>(ceil_div(columns, kThreads) * (q_groups + k_groups));
  work.groups = make_divisor(static_cast<std::uint32_t>(q_groups + k_groups));
  work.units = make_divisor(static_cast<std::uint32_t>(row.units));
  work.length = make_divisor(static_cast<std::uint32_t>(p.length));
  return work;
}

}  // namespace ropeexport
