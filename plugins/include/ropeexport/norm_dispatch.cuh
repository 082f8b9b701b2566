// From parameters of a norm and a rotation to the variants that compute them; runs on the host.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "ropeexport/dispatch.cuh"
#include "ropeexport/norm_column.cuh"
#include "ropeexport/norm_span.cuh"
#include "ropeexport/norm_unit.cuh"
#include "ropeexport/params.cuh"
#include "ropeexport/work.cuh"

namespace ropeexport {

// How many elements of a tensor are normed together.
inline std::int64_t normed_together(const NormRopeParams& p, const Rotated& x) {
  return p.rope.head_size * (p.across_heads ? x.heads : 1);
}

inline bool norm_agrees(const NormRopeParams& p, const Rotated& x, const Scale& scale) {
  return x.heads == 0 || (normed_together(p, x) <= kMostNormed &&
                          (scale.type == p.rope.type || scale.type == DataType::kFloat32));
}

inline bool norm_agrees(const NormRopeParams& p) {
  return std::isfinite(p.epsilon) && p.epsilon >= 0.0F && norm_agrees(p, p.rope.q, p.q_scale) &&
         norm_agrees(p, p.rope.k, p.k_scale);
}

inline bool has_scales(const NormRopeParams& p) {
  return (p.rope.q.heads == 0 || p.q_scale.values) && (p.rope.k.heads == 0 || p.k_scale.values);
}

template <class V>
bool scale_allows(const NormRopeParams& p, const Rotated& x, const Scale& scale) {
  constexpr std::int64_t kWide = std::min(4, V::kAccessWidth) * sizeof(float);
  constexpr std::int64_t kOwn = sizeof(typename V::Access);
  return x.heads == 0 || is_aligned(scale.values, scale.type == p.rope.type ? kOwn : kWide);
}

template <class V>
bool norm_fits(const NormRopeParams& p) {
  return fits<V>(p.rope) && scale_allows<V>(p, p.rope.q, p.q_scale) &&
         scale_allows<V>(p, p.rope.k, p.k_scale);
}

inline NormTensor norm_tensor(const NormRopeParams& p, const Rotated& x, const Scale& scale) {
  return {static_cast<const char*>(scale.values), p.across_heads ? p.rope.head_size : 0,
          scale.type != p.rope.type ? 1 : 0, static_cast<float>(normed_together(p, x))};
}

inline NormWork norm_work(const NormRopeParams& p, const Work& rope, std::int64_t row_units) {
  NormWork work;
  work.rope = rope;
  work.norms[0] = norm_tensor(p, p.rope.q, p.q_scale);
  work.norms[1] = norm_tensor(p, p.rope.k, p.k_scale);
  work.epsilon = p.epsilon;
  work.row_units = static_cast<std::uint32_t>(row_units);
  return work;
}

// Lanes of a row: a power of two, for the butterfly.
inline std::int64_t lanes_of(std::int64_t units) {
  std::int64_t lanes = 1;
  while (lanes < units) lanes *= 2;
  return lanes;
}

// A span is a block's: all heads of a tensor, or one of them. Its threads are whole warps, as many
// as have a unit of the larger one.
inline Cut cut_spans(const NormRopeParams& p, std::int64_t tokens) {
  const std::int64_t q = p.rope.q.heads;
  const std::int64_t k = p.rope.k.heads;
  if (!p.across_heads) return {1, 1, q, k, tokens * (q + k)};
  const std::int64_t q_groups = q > 0 ? 1 : 0;
  const std::int64_t k_groups = k > 0 ? 1 : 0;
  return {std::max<std::int64_t>(1, q), std::max<std::int64_t>(1, k), q_groups, k_groups,
          tokens * (q_groups + k_groups)};
}

inline NormWork make_spans(const NormRopeParams& p, const RowShape& row) {
  const std::int64_t tokens = p.rope.batch * p.rope.length;
  const Cut cut = cut_spans(p, tokens);
  const std::int64_t units = std::max(cut.q_heads, cut.k_heads) * row.units;
  NormWork work = norm_work(p, describe_work(p.rope, row, tokens, cut), row.units);
  work.span_threads = static_cast<std::uint32_t>(
      std::min<std::int64_t>(kMostSpanThreads, ceil_div(units, kLanes) * kLanes));
  return work;
}

// Run a variant over everything, a block a span.
template <class V, class Executor>
cudaError_t run_spans(const NormRopeParams& p, const Tuning& tuning, Executor& executor) {
  const RowShape row = row_shape<V>(p.rope);
  const std::int64_t most = kMostBlocks / cut_spans(p, 1).blocks;
  return for_each_slice<typename V::Element>(
      p.rope, std::min(tuning.most_columns, most), [&](const ApplyRopeParams& rope) {
        NormRopeParams part = p;
        part.rope = rope;
        return executor.template run_spans<V>(make_spans(part, row));
      });
}

// Run a variant over everything, some lanes of a warp a row.
template <class V, class Executor>
cudaError_t run_rows(const NormRopeParams& p, const Tuning& tuning, Executor& executor) {
  const RowShape row = row_shape<V>(p.rope);
  const RowShape padded{lanes_of(row.units), row.rotating_units};
  const std::int64_t wave = tuning.enough_blocks > 0 ? 0 : executor.template resident_blocks<V>();
  return for_each_slice<typename V::Element>(
      p.rope, rows_of_columns(p.rope, tuning, padded.units), [&](const ApplyRopeParams& rope) {
        const Work work = make_work<V>(rope, padded, tuning, wave);
        return executor.template run_columns<V>(norm_work(p, work, row.units));
      });
}

template <class V, class Executor>
cudaError_t run_norm(const NormRopeParams& p, const Tuning& tuning, Executor& executor) {
  const bool is_of_lanes = !p.across_heads && row_shape<V>(p.rope).units <= kLanes;
  return is_of_lanes ? run_rows<V>(p, tuning, executor) : run_spans<V>(p, tuning, executor);
}

// As run_widest.
template <typename T, class Form, class Pairing, class Executor>
cudaError_t run_widest_norm(const NormRopeParams& p, const Tuning& tuning, Executor& executor) {
  using Wide = NormVariant<T, 16 / sizeof(T), Pairing, Form>;
  using Two = NormVariant<T, 2, Pairing, Form>;
  using One = NormVariant<T, 1, Pairing, Form>;
  if (norm_fits<Wide>(p)) return run_norm<Wide>(p, tuning, executor);
  if (norm_fits<Two>(p)) return run_norm<Two>(p, tuning, executor);
  return run_norm<One>(p, tuning, executor);
}

// Check, choose the variant, and hand its work to `executor.run_columns<V>(work)` or
// `executor.run_spans<V>(work)`.
template <class Form, class Pairing, class Executor>
cudaError_t dispatch_norm(NormRopeParams p, const Tuning& tuning, Executor& executor) {
  if (p.rope.rotary_size == 0) p.rope.rotary_size = p.rope.head_size;
  if (!sizes_agree(p.rope) || !norm_agrees(p) || !is_usable(tuning)) return cudaErrorInvalidValue;
  if (is_empty(p.rope)) return cudaSuccess;
  if (!has_all_arrays<Form>(p.rope) || !has_scales(p)) return cudaErrorInvalidValue;
  switch (p.rope.type) {
    case DataType::kFloat32:
      return run_widest_norm<float, Form, Pairing>(p, tuning, executor);
    case DataType::kFloat16:
      return run_widest_norm<__half, Form, Pairing>(p, tuning, executor);
    case DataType::kBFloat16:
      return run_widest_norm<__nv_bfloat16, Form, Pairing>(p, tuning, executor);
  }
  return cudaErrorInvalidValue;
}

}  // namespace ropeexport
