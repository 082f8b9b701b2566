// FlashInfer's rotary kernel (include/flashinfer/pos_enc.cuh of a FlashInfer that the user has)
// behind a C interface. Its headers throw; an exception must not cross into Python.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <flashinfer/pos_enc.cuh>

namespace {

// Dense tokens (tokens, heads, D), in and out.
template <typename T>
int rotate(void* const arrays[4], float* cos_sin, std::int32_t* positions, std::uint32_t tokens,
           std::uint32_t q_heads, std::uint32_t k_heads, std::uint32_t head_size, bool interleaved,
           cudaStream_t stream) {
  const std::size_t q_row = std::size_t{q_heads} * head_size;
  const std::size_t k_row = std::size_t{k_heads} * head_size;
  return flashinfer::BatchQKApplyRotaryPosIdsCosSinCache<T, std::int32_t>(
      static_cast<T*>(arrays[0]), static_cast<T*>(arrays[1]), static_cast<T*>(arrays[2]),
      static_cast<T*>(arrays[3]), cos_sin, positions, tokens, q_heads, k_heads, head_size,
      head_size, q_row, head_size, k_row, head_size, q_row, head_size, k_row, head_size,
      interleaved, stream);
}

}  // namespace

// `cos_sin` is (positions, D): D/2 cosines, D/2 sines. Returns a cudaError_t, or -1.
extern "C" __attribute__((visibility("default"))) int ropeexport_flashinfer(
    std::int32_t is_bfloat16, void* q, void* k, void* q_out, void* k_out, float* cos_sin,
    std::int32_t* positions, std::uint32_t tokens, std::uint32_t q_heads, std::uint32_t k_heads,
    std::uint32_t head_size, std::int32_t interleaved, cudaStream_t stream) {
  void* const arrays[] = {q, k, q_out, k_out};
  const auto run = is_bfloat16 ? rotate<__nv_bfloat16> : rotate<__half>;
  try {
    return run(arrays, cos_sin, positions, tokens, q_heads, k_heads, head_size, interleaved != 0,
               stream);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "flashinfer: %s\n", error.what());
    return -1;
  }
}
