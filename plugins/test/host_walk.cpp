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

struct HostExecutor {
  Seen* seen;

  template <class V>
  cudaError_t run(const Work& work) const {
    seen->access_bytes = sizeof(typename V::Access);
    seen->launches += 1;
    seen->blocks += work.blocks;
    seen->heads_per_thread = work.tensors[0].heads_per_group;
    for (std::uint32_t block = 0; block < work.blocks; ++block) {
      for (std::uint32_t thread = 0; thread < kThreads; ++thread) {
        rotate_column<V>(work, block, thread);
      }
    }
    return cudaSuccess;
  }
};

template <class Form, class Pairing>
cudaError_t walk(const ApplyRopeParams& p, const Tuning& tuning, HostExecutor executor) {
  if (p.rotary_size == 0 || p.rotary_size == p.head_size) {
    return dispatch<Form, Pairing, false>(p, tuning, executor);
  }
  return dispatch<Form, Pairing, true>(p, tuning, executor);
}

}  // namespace

// `pairing` is 0 for neighbours and 1 for halves; without `second` the coefficients are matrices.
extern "C" int ropeexport_host_walk(const ApplyRopeParams* params, const Tuning* tuning,
                                    std::int32_t pairing, Seen* seen) {
  *seen = {};
  const HostExecutor executor{seen};
  const bool matrices = params->pe.second == nullptr;
  if (pairing == 0) {
    return matrices ? walk<Matrices, Interleaved>(*params, *tuning, executor)
                    : walk<Tables, Interleaved>(*params, *tuning, executor);
  }
  return matrices ? walk<Matrices, Half>(*params, *tuning, executor)
                  : walk<Tables, Half>(*params, *tuning, executor);
}

extern "C" std::uint32_t ropeexport_quotient(std::uint32_t n, std::uint32_t divisor) {
  return make_divisor(divisor).quotient(n);
}
