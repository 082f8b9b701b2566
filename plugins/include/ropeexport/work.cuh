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
constexpr std::int64_t kMostColumns = std::int64_t{1} << 30;  // of a launch, counted in 31 bits
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
  Coefficients pe{};      // a batch stride of 0 where one batch serves all
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

// Balanced groups of whole batches of heads: 32 heads by at most 12 in batches of 4 are 12, 12, 8.
inline std::int64_t heads_per_group(std::int64_t heads, std::int64_t most, std::int64_t batch) {
  if (heads == 0) return 1;
  const std::int64_t step = std::min(most, batch);
  const std::int64_t batches = ceil_div(heads, step);
  const std::int64_t groups = ceil_div(batches, most / step);
  return std::min(heads, ceil_div(batches, groups) * step);
}

// A cut: how many heads a thread goes through, and the groups and blocks that follow.
struct Cut {
  std::int64_t q_heads;
  std::int64_t k_heads;
  std::int64_t q_groups;
  std::int64_t k_groups;
  std::int64_t blocks;
};

template <class V>
Cut cut_by(const ApplyRopeParams& p, std::int64_t columns, std::int64_t most) {
  const std::int64_t q_heads = heads_per_group(p.q.heads, most, V::kHeadsInFlight);
  const std::int64_t k_heads = heads_per_group(p.k.heads, most, V::kHeadsInFlight);
  const std::int64_t q_groups = ceil_div(p.q.heads, q_heads);
  const std::int64_t k_groups = ceil_div(p.k.heads, k_heads);
  return {q_heads, k_heads, q_groups, k_groups,
          ceil_div(columns, kThreads) * (q_groups + k_groups)};
}

// Whether blocks use a GPU well that holds a wave of them: half of it is busy, and there is no
// second wave that leaves most of it idle.
constexpr bool fills(std::int64_t blocks, std::int64_t wave) {
  return 2 * blocks >= wave && (blocks <= wave || 2 * blocks >= 3 * wave);
}

// The next smaller number of heads a thread that can make another cut: groups are whole batches.
constexpr std::int64_t fewer_heads(std::int64_t heads, std::int64_t batch) {
  return heads > batch ? (heads - 1) / batch * batch : heads - 1;
}

// The most heads a thread whose blocks fill the GPU, else one. One head a thread that makes 1.0
// to 1.5 waves has a better cut beside it, because the next one has at least half of its blocks,
// unless each tensor has one head only (or `most_heads_per_thread` forbids it).
template <class V>
Cut cut_by_wave(const ApplyRopeParams& p, std::int64_t columns, std::int64_t most,
                std::int64_t wave) {
  constexpr std::int64_t kBatch = V::kHeadsInFlight;
  const std::int64_t all = ceil_div(std::max(p.q.heads, p.k.heads), kBatch) * kBatch;
  for (std::int64_t n = std::min(most, all); n > 1; n = fewer_heads(n, kBatch)) {
    const Cut cut = cut_by<V>(p, columns, n);
    if (fills(cut.blocks, wave)) return cut;
  }
  return cut_by<V>(p, columns, 1);
}

// As many heads a thread as leave `enough_blocks`.
template <class V>
Cut cut_by_blocks(const ApplyRopeParams& p, std::int64_t columns, const Tuning& t) {
  const std::int64_t single = ceil_div(columns, kThreads) * (p.q.heads + p.k.heads);
  return cut_by<V>(p, columns,
                   std::clamp<std::int64_t>(single / t.enough_blocks, 1, t.most_heads_per_thread));
}

inline TensorWork tensor_work(const Rotated& x, std::int64_t heads_per_group) {
  return {static_cast<const char*>(x.in),
          static_cast<char*>(x.out),
          x.in_strides,
          x.out_strides,
          static_cast<std::int32_t>(x.heads),
          static_cast<std::int32_t>(heads_per_group)};
}

// A head axis of 1 needs no such thing: its variants ask for head 0 alone.
inline Coefficients broadcast_batch(Coefficients pe) {
  if (pe.batch == 1) pe.strides.batch = 0;
  return pe;
}

// What a grid is told of parameters that are cut already.
inline Work describe_work(const ApplyRopeParams& p, const RowShape& row, std::int64_t columns,
                          const Cut& cut) {
  Work work;
  work.tensors[0] = tensor_work(p.q, cut.q_heads);
  work.tensors[1] = tensor_work(p.k, cut.k_heads);
  work.pe = broadcast_batch(p.pe);
  work.rotary_size = p.rotary_size;
  work.rotating_units = static_cast<std::uint32_t>(row.rotating_units);
  work.columns = static_cast<std::uint32_t>(columns);
  work.q_groups = static_cast<std::uint32_t>(cut.q_groups);
  work.blocks = static_cast<std::uint32_t>(cut.blocks);
  work.groups = make_divisor(static_cast<std::uint32_t>(cut.q_groups + cut.k_groups));
  work.units = make_divisor(static_cast<std::uint32_t>(row.units));
  work.length = make_divisor(static_cast<std::uint32_t>(p.length));
  return work;
}

// Cut a launch whose columns are known to fit, see dispatch.cuh. `wave` counts where the tuning
// leaves the cut to it.
template <class V>
Work make_work(const ApplyRopeParams& p, const RowShape& row, const Tuning& tuning,
               std::int64_t wave) {
  const std::int64_t columns = p.batch * p.length * row.units;
  const Cut cut = tuning.enough_blocks > 0
                      ? cut_by_blocks<V>(p, columns, tuning)
                      : cut_by_wave<V>(p, columns, tuning.most_heads_per_thread, wave);
  return describe_work(p, row, columns, cut);
}

}  // namespace ropeexport
