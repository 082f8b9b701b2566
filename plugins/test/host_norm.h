// The grid of the kernel that norms and rotates, walked on the host; see host_walk.cpp. What
// threads tell each other is emulated: the lanes of a warp by the same butterfly, the warps of a
// block one after the other.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "ropeexport/norm_dispatch.cuh"

namespace ropeexport::host_norm {

// What the dispatch chose, for tests that ask for a certain path.
struct Seen {
  std::int64_t access_bytes;
  std::int64_t launches;
  std::int64_t blocks;
  std::int64_t heads_per_thread;  // of q, in the last launch; of a span 0
  std::int64_t row_units;
  std::int64_t threads;  // of a block
};

// Add what the lanes of each row have, `lanes` of them; `sums` are of all threads of a block.
inline void add_among_lanes(std::vector<float>& sums, std::uint32_t lanes) {
  for (std::uint32_t step = kLanes / 2; step > 0; step /= 2) {
    if (step >= lanes) continue;
    const std::vector<float> before = sums;
    for (std::size_t t = 0; t < sums.size(); ++t) {
      sums[t] = rounded_sum(before[t], before[t ^ step]);
    }
  }
}

inline float add_in_block(std::vector<float> sums) {
  add_among_lanes(sums, kLanes);
  float all = sums[0];
  for (std::size_t warp = 1; warp < sums.size() / kLanes; ++warp) {
    all = rounded_sum(all, sums[warp * kLanes]);
  }
  return all;
}

template <class V>
void walk_block_of_columns(const NormWork& work, std::uint32_t block) {
  constexpr int kBatch = V::kHeadsInFlight;
  std::vector<NormColumn<V>> columns;
  columns.reserve(kThreads);
  for (std::uint32_t t = 0; t < kThreads; ++t) columns.emplace_back(work, block, t);
  while (columns[0].has_heads()) {
    std::array<std::vector<float>, kBatch> sums;
    for (auto& column : columns) {
      float own[kBatch];
      column.load(own);
      for (int i = 0; i < kBatch; ++i) sums[i].push_back(own[i]);
    }
    for (auto& sum : sums) add_among_lanes(sum, work.rope.units.value);
    for (std::uint32_t t = 0; t < kThreads; ++t) {
      float rows[kBatch];
      for (int i = 0; i < kBatch; ++i) rows[i] = sums[i][t];
      columns[t].finish(rows);
    }
  }
}

template <class V>
void walk_block_of_a_span(const NormWork& work, std::uint32_t block) {
  std::vector<NormSpan<V>> threads;
  threads.reserve(work.span_threads);
  std::vector<float> sums;
  for (std::uint32_t t = 0; t < work.span_threads; ++t) {
    threads.emplace_back(work, block, t);
    sums.push_back(threads.back().load());
  }
  const float all = add_in_block(sums);
  for (auto& thread : threads) thread.finish(all);
}

struct Executor {
  std::int64_t wave;
  Seen* seen;

  template <class V>
  std::int64_t resident_blocks() const {
    return wave;
  }

  template <class V>
  void see(const NormWork& work) const {
    seen->access_bytes = sizeof(typename V::Access);
    seen->launches += 1;
    seen->blocks += work.rope.blocks;
    seen->row_units = work.row_units;
  }

  template <class V>
  cudaError_t run_columns(const NormWork& work) const {
    see<V>(work);
    seen->heads_per_thread = work.rope.tensors[0].heads_per_group;
    seen->threads = kThreads;
    for (std::uint32_t b = 0; b < work.rope.blocks; ++b) walk_block_of_columns<V>(work, b);
    return cudaSuccess;
  }

  template <class V>
  cudaError_t run_spans(const NormWork& work) const {
    see<V>(work);
    seen->threads = work.span_threads;
    for (std::uint32_t b = 0; b < work.rope.blocks; ++b) walk_block_of_a_span<V>(work, b);
    return cudaSuccess;
  }
};

// `pairing` is 0 for neighbours and 1 for halves; without `second` the coefficients are matrices.
// `wave` is what the GPU holds at once.
inline cudaError_t walk(const NormRopeParams& params, const Tuning& tuning, std::int32_t pairing,
                        std::int64_t wave, Seen& seen) {
  seen = {};
  Executor executor{wave, &seen};
  if (params.rope.pe.second == nullptr) {
    return dispatch_norm<Matrices, Interleaved>(params, tuning, executor);
  }
  return pairing == 0 ? dispatch_norm<Tables, Interleaved>(params, tuning, executor)
                      : dispatch_norm<Tables, Half>(params, tuning, executor);
}

}  // namespace ropeexport::host_norm
