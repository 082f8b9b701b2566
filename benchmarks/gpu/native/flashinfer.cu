// FlashInfer's rotary kernel (include/flashinfer/pos_enc.cuh of a FlashInfer that the user has)
// behind a C interface. Its headers throw; an exception must not cross into Python.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <flashinfer/pos_enc.cuh>

struct FlashinferTensor {  // (tokens, heads, D), strides in elements
  void* in;
  void* out;
  std::uint32_t heads;
  std::uint64_t token_stride;
  std::uint64_t head_stride;
};

namespace {

template <typename T>
int rotate(const FlashinferTensor& q, const FlashinferTensor& k, float* cos_sin,
           std::int32_t* positions, std::uint32_t tokens, std::uint32_t head_size, bool interleaved,
           cudaStream_t stream) {
  return flashinfer::BatchQKApplyRotaryPosIdsCosSinCache<T, std::int32_t>(
      static_cast<T*>(q.in), static_cast<T*>(k.in), static_cast<T*>(q.out), static_cast<T*>(k.out),
      cos_sin, positions, tokens, q.heads, k.heads, head_size, head_size, q.token_stride,
      q.head_stride, k.token_stride, k.head_stride, q.token_stride, q.head_stride, k.token_stride,
      k.head_stride, interleaved, stream);
}

}  // namespace

// `cos_sin` is (positions, D): D/2 cosines, D/2 sines. Returns a cudaError_t, or -1.
extern "C" __attribute__((visibility("default"))) int ropeexport_flashinfer(
    std::int32_t is_bfloat16, const FlashinferTensor* q, const FlashinferTensor* k, float* cos_sin,
    std::int32_t* positions, std::uint32_t tokens, std::uint32_t head_size,
    std::int32_t interleaved, cudaStream_t stream) {
  try {
    if (is_bfloat16) {
      return rotate<__nv_bfloat16>(*q, *k, cos_sin, positions, tokens, head_size, interleaved != 0,
                                   stream);
    }
    return rotate<__half>(*q, *k, cos_sin, positions, tokens, head_size, interleaved != 0, stream);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "flashinfer: %s\n", error.what());
    return -1;
  }
}
