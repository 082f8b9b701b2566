// What one thread does where each row is normed by itself: the same functions on the GPU and in the
// host test.
//
// The units of a row lie in neighbouring lanes of a warp, as many as the next power of two; those
// that have no unit add zeros. Between `load` and `finish` the lanes of a row add what they have.
#pragma once

#include <cstdint>

#include "ropeexport/column.cuh"
#include "ropeexport/compiler.cuh"
#include "ropeexport/norm_unit.cuh"
#include "ropeexport/work.cuh"

namespace ropeexport {

constexpr std::uint32_t kLanes = 32;  // of a warp

struct NormWork {
  Work rope{};  // whose units are a row's lanes where each row is normed by itself
  NormTensor norms[2];
  float epsilon = 0.0F;
  std::uint32_t row_units = 0;     // without the lanes that have none
  std::uint32_t span_threads = 0;  // of a block, where it norms a span, see norm_span.cuh
};

// Rotate a unit that is normed already.
template <class V>
ROPEEXPORT_BOTH void rotate_normed(const Work& work, const Place& at, std::int32_t head,
                                   typename V::Loaded& coefficients, UnitData<V>& data) {
  if (!is_rotated<V>(work, at)) return;
  if (work.pe.heads > 1) load_coefficients<V>(work, at, head, coefficients);
  rotate_unit<V>(coefficients, data);
}

template <class V>
class NormColumn {
 public:
  static constexpr int kBatch = V::kHeadsInFlight;

  ROPEEXPORT_BOTH NormColumn(const NormWork& work, std::uint32_t block, std::uint32_t thread)
      : work_(work), at_(find_place(work.rope, block, thread)) {
    has_unit_ = at_.has_work && at_.unit < work.row_units;
    heads_ = find_heads<V>(work.rope, at_);
    if (!has_unit_) return;
    scale_.load(work.rope, norm(), at_, 0);
    if (work.rope.pe.heads == 1 && is_rotated<V>(work.rope, at_)) {
      load_coefficients<V>(work.rope, at_, 0, coefficients_);
    }
  }

  // The same in all threads of a block.
  ROPEEXPORT_BOTH bool has_heads() const { return heads_.left > 0; }

  // Read some heads, and tell the squares of each.
  ROPEEXPORT_BOTH void load(float (&squares)[kBatch]) {
    ROPEEXPORT_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      if (has_unit_ && i < heads_.left) heads_.load(i, data_[i]);
    }
    ROPEEXPORT_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      squares[i] = 0.0F;
      if (has_unit_ && i < heads_.left) squares[i] = add_squares<V>(0.0F, data_[i]);
    }
  }

  // Norm, rotate and write them, by the squares of whole rows.
  ROPEEXPORT_BOTH void finish(const float (&squares)[kBatch]) {
    ROPEEXPORT_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      if (!has_unit_ || i >= heads_.left) continue;
      const float inverse = inverse_root(squares[i], norm().count, work_.epsilon);
      norm_unit<V>(inverse, scale_, !norm().scale_is_wide, data_[i]);
      rotate_normed<V>(work_.rope, at_, heads_.first + i, coefficients_, data_[i]);
      heads_.save(i, data_[i]);
    }
    heads_.advance(kBatch);
  }

 private:
  ROPEEXPORT_BOTH const NormTensor& norm() const { return work_.norms[at_.is_q ? 0 : 1]; }

  const NormWork& work_;
  Place at_;
  bool has_unit_;
  Heads<V> heads_;
  // zeros in lanes that have none: the compiler may read them early
  UnitScale<V> scale_{};
  typename V::Loaded coefficients_{};
  UnitData<V> data_[kBatch];
};

#if defined(__CUDACC__)

// What the lanes of a row have, added in the order of a butterfly: each lane gets the same bits.
// All lanes of a warp take part.
template <int kCount>
__device__ __forceinline__ void add_among_lanes(float (&sums)[kCount], std::uint32_t lanes) {
  ROPEEXPORT_UNROLL
  for (std::uint32_t step = kLanes / 2; step > 0; step /= 2) {
    if (step >= lanes) continue;
    ROPEEXPORT_UNROLL
    for (int i = 0; i < kCount; ++i) {
      sums[i] = rounded_sum(sums[i], __shfl_xor_sync(0xffffffffU, sums[i], step));
    }
  }
}

template <class V>
__device__ __forceinline__ void norm_rope_column(const NormWork& work, std::uint32_t block,
                                                 std::uint32_t thread) {
  NormColumn<V> column(work, block, thread);
  while (column.has_heads()) {
    float squares[V::kHeadsInFlight];
    column.load(squares);
    add_among_lanes(squares, work.rope.units.value);
    column.finish(squares);
  }
}

#endif  // __CUDACC__

}  // namespace ropeexport
