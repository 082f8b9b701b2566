// The value arithmetic: float32, every product and every sum rounded, never fused.
//
// Eager torch computes product, product, sum as three kernels, each of which rounds; a fused
// multiply-add would not. On the GPU the intrinsics forbid fusing; the host build is compiled with
// -ffp-contract=off.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "ropeexport/compiler.cuh"

namespace ropeexport {

struct Pair {
  float first;
  float second;
};

ROPEEXPORT_BOTH float rounded_product(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

ROPEEXPORT_BOTH float rounded_sum(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

ROPEEXPORT_BOTH float dot(float a0, float a1, Pair x) {
  return rounded_sum(rounded_product(a0, x.first), rounded_product(a1, x.second));
}

ROPEEXPORT_BOTH float widen(float x) { return x; }
ROPEEXPORT_BOTH float widen(__half x) { return __half2float(x); }
ROPEEXPORT_BOTH float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// Two at a time: a GPU narrows two floats with one instruction.
ROPEEXPORT_BOTH void narrow(float a, float b, float* to) {
  to[0] = a;
  to[1] = b;
}
ROPEEXPORT_BOTH void narrow(float a, float b, __half* to) {
  const __half2 both = __floats2half2_rn(a, b);
  to[0] = both.x;
  to[1] = both.y;
}
ROPEEXPORT_BOTH void narrow(float a, float b, __nv_bfloat16* to) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(a, b);
  to[0] = both.x;
  to[1] = both.y;
}

}  // namespace ropeexport
