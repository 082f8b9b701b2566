// What one thread does where a block norms a span: all heads of a token together, or one row that
// is wider than a warp. The same functions on the GPU and in the host test.
//
// The units of a span, head by head, are dealt to the threads in turn. A thread keeps its first
// ones in registers between the sum and the rotation, and reads the others a second time.
#pragma once

#include <cstdint>

#include "ropeexport/column.cuh"
#include "ropeexport/compiler.cuh"
#include "ropeexport/norm_column.cuh"
#include "ropeexport/norm_unit.cuh"
#include "ropeexport/work.cuh"

namespace ropeexport {

constexpr std::uint32_t kMostSpanThreads = 512;  // of a block, whole warps
constexpr std::uint32_t kMostSpanWarps = kMostSpanThreads / kLanes;

ROPEEXPORT_BOTH Place find_token(const Work& work, std::uint32_t block) {
  const std::uint32_t token = work.groups.quotient(block);
  const std::uint32_t group = block - token * work.groups.value;
  const std::uint32_t batch = work.length.quotient(token);
  const bool is_q = group < work.q_groups;
  return {true,
          is_q,
          static_cast<std::int32_t>(is_q ? group : group - work.q_groups),
          batch,
          token - batch * work.length.value,
          0};
}

template <class V>
class NormSpan {
 public:
  ROPEEXPORT_BOTH NormSpan(const NormWork& work, std::uint32_t block, std::uint32_t thread)
      : work_(work), token_(find_token(work.rope, block)), thread_(thread) {
    first_head_ = token_.group * tensor().heads_per_group;
    units_ = static_cast<std::uint32_t>(tensor().heads_per_group) * work.row_units;
  }

  // Read this thread's units and tell their squares.
  ROPEEXPORT_BOTH float load() {
    ROPEEXPORT_UNROLL
    for (int i = 0; i < V::kUnitsKept; ++i) {
      if (unit(i) < units_) find(unit(i)).load(0, kept_[i]);
    }
    float squares = 0.0F;
    ROPEEXPORT_UNROLL
    for (int i = 0; i < V::kUnitsKept; ++i) {
      if (unit(i) < units_) squares = add_squares<V>(squares, kept_[i]);
    }
    ROPEEXPORT_NO_UNROLL
    for (std::uint32_t u = unit(V::kUnitsKept); u < units_; u += work_.span_threads) {
      UnitData<V> data;
      find(u).load(0, data);
      squares = add_squares<V>(squares, data);
    }
    return squares;
  }

  // Norm, rotate and write them, by the squares of the whole span.
  ROPEEXPORT_BOTH void finish(float squares) {
    const float inverse = inverse_root(squares, norm().count, work_.epsilon);
    ROPEEXPORT_UNROLL
    for (int i = 0; i < V::kUnitsKept; ++i) {
      if (unit(i) < units_) finish_unit(unit(i), inverse, kept_[i]);
    }
    ROPEEXPORT_NO_UNROLL
    for (std::uint32_t u = unit(V::kUnitsKept); u < units_; u += work_.span_threads) {
      UnitData<V> data;
      find(u).load(0, data);
      finish_unit(u, inverse, data);
    }
  }

 private:
  ROPEEXPORT_BOTH const TensorWork& tensor() const {
    return work_.rope.tensors[token_.is_q ? 0 : 1];
  }
  ROPEEXPORT_BOTH const NormTensor& norm() const { return work_.norms[token_.is_q ? 0 : 1]; }
  ROPEEXPORT_BOTH std::uint32_t unit(int i) const { return thread_ + i * work_.span_threads; }

  // A unit of the span as one of its row: the place, and a head whose row it is.
  ROPEEXPORT_BOTH Place place(std::uint32_t unit, std::int32_t& head) const {
    const std::uint32_t row = work_.rope.units.quotient(unit);
    head = first_head_ + static_cast<std::int32_t>(row);
    Place at = token_;
    at.unit = unit - row * work_.row_units;
    return at;
  }

  ROPEEXPORT_BOTH Heads<V> find(std::uint32_t unit) const {
    std::int32_t head;
    const Place at = place(unit, head);
    return heads_from<V>(work_.rope, tensor(), at, head);
  }

  ROPEEXPORT_BOTH void finish_unit(std::uint32_t unit, float inverse, UnitData<V>& data) const {
    std::int32_t head;
    const Place at = place(unit, head);
    UnitScale<V> scale;
    scale.load(work_.rope, norm(), at, head * norm().scale_stride);
    norm_unit<V>(inverse, scale, !norm().scale_is_wide, data);
    if (is_rotated<V>(work_.rope, at)) {
      typename V::Loaded coefficients;
      load_coefficients<V>(work_.rope, at, work_.rope.pe.heads > 1 ? head : 0, coefficients);
      rotate_unit<V>(coefficients, data);
    }
    heads_from<V>(work_.rope, tensor(), at, head).save(0, data);
  }

  const NormWork& work_;
  Place token_;
  std::uint32_t thread_;
  std::int32_t first_head_;
  std::uint32_t units_;  // of the span
  UnitData<V> kept_[V::kUnitsKept];
};

#if defined(__CUDACC__)

// The sum of what all threads of a block have: of each warp by a butterfly, then warp after warp.
__device__ __forceinline__ float add_in_block(float sum, std::uint32_t threads,
                                              std::uint32_t thread) {
  __shared__ float of_warps[kMostSpanWarps];
  float sums[1] = {sum};
  add_among_lanes(sums, kLanes);
  if (thread % kLanes == 0) of_warps[thread / kLanes] = sums[0];
  __syncthreads();
  float all = of_warps[0];
  ROPEEXPORT_NO_UNROLL
  for (std::uint32_t warp = 1; warp < threads / kLanes; ++warp) {
    all = rounded_sum(all, of_warps[warp]);
  }
  return all;
}

template <class V>
__device__ __forceinline__ void norm_rope_span(const NormWork& work, std::uint32_t block,
                                               std::uint32_t thread) {
  NormSpan<V> span(work, block, thread);
  span.finish(add_in_block(span.load(), work.span_threads, thread));
}

#endif  // __CUDACC__

}  // namespace ropeexport
