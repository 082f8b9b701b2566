// From parameters to the variants that compute them, a slice at a time; runs on the host.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "ropeexport/params.cuh"
#include "ropeexport/policies.cuh"
#include "ropeexport/work.cuh"

namespace ropeexport {

inline bool is_within(std::int64_t value, std::int64_t most) { return value >= 0 && value <= most; }

inline bool heads_agree(const Rotated& x, const Coefficients& pe) {
  return is_within(x.heads, kMostHeads) && (pe.heads == 1 || x.heads == 0 || x.heads == pe.heads);
}

inline bool sizes_agree(const ApplyRopeParams& p) {
  const bool rows = is_within(p.head_size, kMostHeadSize) && p.head_size % 2 == 0 &&
                    is_within(p.rotary_size, p.head_size) && p.rotary_size % 2 == 0;
  const bool matrices = (p.pe.batch == 1 || p.pe.batch == p.batch) && p.pe.heads >= 1;
  return rows && matrices && p.batch >= 0 && p.length >= 0 && heads_agree(p.q, p.pe) &&
         heads_agree(p.k, p.pe);
}

inline bool is_usable(const Tuning& t) {
  return t.most_columns >= 1 && t.most_columns <= kMostColumns && t.enough_blocks >= 0 &&
         t.most_heads_per_thread >= 1;
}

inline bool is_empty(const ApplyRopeParams& p) {
  return p.batch == 0 || p.length == 0 || p.head_size == 0 || p.q.heads + p.k.heads == 0;
}

inline bool has_arrays(const Rotated& x) { return x.heads == 0 || (x.in && x.out); }

template <class Form>
bool has_all_arrays(const ApplyRopeParams& p) {
  return has_arrays(p.q) && has_arrays(p.k) && p.pe.first && (!Form::kHasSecond || p.pe.second);
}

inline bool is_aligned(const void* address, std::int64_t bytes) {
  return reinterpret_cast<std::uintptr_t>(address) % static_cast<std::uintptr_t>(bytes) == 0;
}

// A stride counts only along an axis that is walked.
inline bool strides_allow(const Strides& s, std::int64_t batch, std::int64_t heads,
                          std::int64_t length, int width) {
  return (batch == 1 || s.batch % width == 0) && (heads == 1 || s.head % width == 0) &&
         (length == 1 || s.length % width == 0);
}

template <class V>
bool tensor_allows(const ApplyRopeParams& p, const Rotated& x) {
  constexpr int kWidth = V::kAccessWidth;
  constexpr std::int64_t kBytes = sizeof(typename V::Access);
  return x.heads == 0 || (is_aligned(x.in, kBytes) && is_aligned(x.out, kBytes) &&
                          strides_allow(x.in_strides, p.batch, x.heads, p.length, kWidth) &&
                          strides_allow(x.out_strides, p.batch, x.heads, p.length, kWidth));
}

template <class V>
bool coefficients_allow(const ApplyRopeParams& p) {
  constexpr int kWidth = std::min(4, V::kFloatsPerUnit);
  constexpr std::int64_t kBytes = kWidth * sizeof(float);
  return is_aligned(p.pe.first, kBytes) && is_aligned(p.pe.second, kBytes) &&
         strides_allow(p.pe.strides, p.pe.batch, p.pe.heads, p.length, kWidth);
}

// Whether every access of a variant is aligned and every row is a whole number of its units.
template <class V>
bool fits(const ApplyRopeParams& p) {
  const bool rows = p.rotary_size % V::kElements == 0 && p.head_size % V::kElements == 0;
  return rows && tensor_allows<V>(p, p.q) && tensor_allows<V>(p, p.k) && coefficients_allow<V>(p);
}

// The part of a launch from a batch and a position on.
template <typename T>
ApplyRopeParams slice(ApplyRopeParams p, std::int64_t batch, std::int64_t position,
                      std::int64_t batches, std::int64_t positions) {
  const auto move = [&](const Strides& s) { return batch * s.batch + position * s.length; };
  for (Rotated* x : {&p.q, &p.k}) {
    if (x->heads == 0) continue;
    x->in = static_cast<const T*>(x->in) + move(x->in_strides);
    x->out = static_cast<T*>(x->out) + move(x->out_strides);
  }
  const std::int64_t row = move(broadcast_batch(p.pe).strides);
  if (p.pe.first) p.pe.first += row;
  if (p.pe.second) p.pe.second += row;
  p.batch = batches;
  p.length = positions;
  return p;
}

// Give `run` everything in slices of at most `most_rows` rows, batches times positions.
template <typename T, class Run>
cudaError_t for_each_slice(const ApplyRopeParams& p, std::int64_t most_rows, Run run) {
  const std::int64_t rows = std::max<std::int64_t>(1, most_rows);
  const std::int64_t positions = std::min(p.length, rows);
  const std::int64_t batches = positions < p.length ? 1 : std::min(p.batch, rows / p.length);
  for (std::int64_t b = 0; b < p.batch; b += batches) {
    for (std::int64_t l = 0; l < p.length; l += positions) {
      const cudaError_t status =
          run(slice<T>(p, b, l, std::min(batches, p.batch - b), std::min(positions, p.length - l)));
      if (status != cudaSuccess) return status;
    }
  }
  return cudaSuccess;
}

// Rows of a launch whose columns and blocks can be counted in 32 bits.
inline std::int64_t rows_of_columns(const ApplyRopeParams& p, const Tuning& tuning,
                                    std::int64_t units) {
  const std::int64_t most_blocks = kMostBlocks / (p.q.heads + p.k.heads);
  return std::min(tuning.most_columns, most_blocks * kThreads) / units;
}

// Run a variant over everything.
template <class V, class Executor>
cudaError_t run_slices(const ApplyRopeParams& p, const Tuning& tuning, Executor& executor) {
  const RowShape row = row_shape<V>(p);
  const std::int64_t wave = tuning.enough_blocks > 0 ? 0 : executor.template resident_blocks<V>();
  return for_each_slice<typename V::Element>(
      p, rows_of_columns(p, tuning, row.units), [&](const ApplyRopeParams& part) {
        return executor.template run<V>(make_work<V>(part, row, tuning, wave));
      });
}

// The widest accesses that alignment allows: 16 bytes, a pair, an element.
template <typename T, class Form, class Pairing, bool kPerHead, bool kPartial, class Executor>
cudaError_t run_widest(const ApplyRopeParams& p, const Tuning& tuning, Executor& executor) {
  using Wide = Variant<T, 16 / sizeof(T), Pairing, Form, kPerHead, kPartial>;
  using Two = Variant<T, 2, Pairing, Form, kPerHead, kPartial>;
  using One = Variant<T, 1, Pairing, Form, kPerHead, kPartial>;
  if (fits<Wide>(p)) return run_slices<Wide>(p, tuning, executor);
  if (fits<Two>(p)) return run_slices<Two>(p, tuning, executor);
  return run_slices<One>(p, tuning, executor);
}

template <class Form, class Pairing, bool kPerHead, bool kPartial, class Executor>
cudaError_t run_type(const ApplyRopeParams& p, const Tuning& tuning, Executor& executor) {
  switch (p.type) {
    case DataType::kFloat32:
      return run_widest<float, Form, Pairing, kPerHead, kPartial>(p, tuning, executor);
    case DataType::kFloat16:
      return run_widest<__half, Form, Pairing, kPerHead, kPartial>(p, tuning, executor);
    case DataType::kBFloat16:
      return run_widest<__nv_bfloat16, Form, Pairing, kPerHead, kPartial>(p, tuning, executor);
  }
  return cudaErrorInvalidValue;
}

// Check, choose the variant, and hand its work to `executor.run<V>(work)`, cut by the wave that
// `executor.resident_blocks<V>()` tells.
template <class Form, class Pairing, bool kPartial, bool kPerHead = true, class Executor>
cudaError_t dispatch(ApplyRopeParams p, const Tuning& tuning, Executor& executor) {
  if (!kPartial || p.rotary_size == 0) p.rotary_size = p.head_size;
  if (!sizes_agree(p) || !is_usable(tuning)) return cudaErrorInvalidValue;
  if (is_empty(p)) return cudaSuccess;
  if (!has_all_arrays<Form>(p)) return cudaErrorInvalidValue;
  if (p.pe.heads > 1) {
    if constexpr (kPerHead) return run_type<Form, Pairing, true, kPartial>(p, tuning, executor);
    return cudaErrorInvalidValue;
  }
  return run_type<Form, Pairing, false, kPartial>(p, tuning, executor);
}

}  // namespace ropeexport
