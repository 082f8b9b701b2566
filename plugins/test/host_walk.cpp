// The kernel's grid walked on the host, block by block and thread by thread, for tests without a
// GPU: the dispatch, the cut, the index and the value arithmetic are the kernel's own source.
// Compile with -ffp-contract=off: a fused multiply-add would round once where the kernel does
// twice.
#include <cstdint>

#include "ropeexport/column.cuh"
#include "ropeexport/dispatch.cuh"

namespace {

using namespace ropeexport;

// What the dispatch chose, for tests that ask for a certain path.
struct Seen {
  std::int64_t access_bytes;
  std::int64_t launches;
  std::int64_t blocks;
  std::int64_t heads_per_thread;  // of q, in the last launch
};

// A GPU that holds `wave` blocks at once, whatever the variant, and runs nothing.
struct CountingExecutor {
  std::int64_t wave;
  Seen* seen;

  template <class V>
  std::int64_t resident_blocks() const {
    return wave;
  }

  template <class V>
  cudaError_t run(const Work& work) const {
    seen->access_bytes = sizeof(typename V::Access);
    seen->launches += 1;
    seen->blocks += work.blocks;
    seen->heads_per_thread = work.tensors[0].heads_per_group;
    return cudaSuccess;
  }
};

struct HostExecutor : CountingExecutor {
  template <class V>
  cudaError_t run(const Work& work) const {
    CountingExecutor::run<V>(work);
    for (std::uint32_t block = 0; block < work.blocks; ++block) {
      for (std::uint32_t thread = 0; thread < kThreads; ++thread) {
        rotate_column<V>(work, block, thread);
      }
    }
    return cudaSuccess;
  }
};

template <class Form, class Pairing, class Executor>
cudaError_t walk(const ApplyRopeParams& p, const Tuning& tuning, Executor executor) {
  if (p.rotary_size == 0 || p.rotary_size == p.head_size) {
    return dispatch<Form, Pairing, false>(p, tuning, executor);
  }
  return dispatch<Form, Pairing, true>(p, tuning, executor);
}

template <class Executor>
cudaError_t walk_form(const ApplyRopeParams& p, const Tuning& tuning, std::int32_t pairing,
                      Executor executor) {
  const bool matrices = p.pe.second == nullptr;
  if (pairing == 0) {
    return matrices ? walk<Matrices, Interleaved>(p, tuning, executor)
                    : walk<Tables, Interleaved>(p, tuning, executor);
  }
  return matrices ? walk<Matrices, Half>(p, tuning, executor)
                  : walk<Tables, Half>(p, tuning, executor);
}

}  // namespace

// `pairing` is 0 for neighbours and 1 for halves; without `second` the coefficients are matrices.
// `wave` is what the GPU holds at once.
extern "C" int ropeexport_host_walk(const ApplyRopeParams* params, const Tuning* tuning,
                                    std::int32_t pairing, std::int64_t wave, Seen* seen) {
  *seen = {};
  return walk_form(*params, *tuning, pairing, HostExecutor{{wave, seen}});
}

// What would be launched on each of several GPUs; no array is read or written.
extern "C" int ropeexport_host_cuts(const ApplyRopeParams* params, const Tuning* tuning,
                                    std::int32_t pairing, const std::int64_t* waves,
                                    std::int64_t count, Seen* seen) {
  for (std::int64_t i = 0; i < count; ++i) {
    seen[i] = {};
    const cudaError_t status =
        walk_form(*params, *tuning, pairing, CountingExecutor{waves[i], seen + i});
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

extern "C" std::uint32_t ropeexport_quotient(std::uint32_t n, std::uint32_t divisor) {
  return make_divisor(divisor).quotient(n);
}
