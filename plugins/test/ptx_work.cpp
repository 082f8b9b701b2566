// What the dispatch would launch: the variant, the grid and the kernel's argument of each launch,
// for tests that run the kernel's PTX without a GPU.
#include <cstdint>
#include <typeinfo>

#include "ropeexport/column.cuh"
#include "ropeexport/dispatch.cuh"

namespace {

using namespace ropeexport;

constexpr std::int64_t kMultiprocessors = 132;  // of an H100

// The name is that of the variant's type, as the compiler writes it in symbols.
using Record = void (*)(const char* name, const void* work, std::int64_t work_bytes,
                        std::int64_t blocks, std::int64_t threads);

struct RecordingExecutor {
  Record record;

  template <class V>
  std::int64_t resident_blocks() const {
    return kMultiprocessors * V::kResidentBlocks;
  }

  template <class V>
  cudaError_t run(const Work& work) const {
    record(typeid(V).name(), &work, sizeof(Work), work.blocks, kThreads);
    return cudaSuccess;
  }
};

// As launch_*.cu choose among the forms.
template <class Pairing>
cudaError_t record_form(const ApplyRopeParams& p, const Tuning& tuning, bool tables, bool partial,
                        RecordingExecutor executor) {
  if (!tables) return dispatch<Matrices, Pairing, false>(p, tuning, executor);
  return partial ? dispatch<Tables, Pairing, true, false>(p, tuning, executor)
                 : dispatch<Tables, Pairing, false, false>(p, tuning, executor);
}

}  // namespace

// Without `tuning` the product's own.
extern "C" int ropeexport_record_launches(const ApplyRopeParams* params, const Tuning* tuning,
                                          bool tables, bool halves, bool partial, Record record) {
  const RecordingExecutor executor{record};
  const Tuning chosen = tuning ? *tuning : Tuning{};
  return halves ? record_form<Half>(*params, chosen, tables, partial, executor)
                : record_form<Interleaved>(*params, chosen, tables, partial, executor);
}
