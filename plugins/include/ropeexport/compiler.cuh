// One source for the GPU and for the host that walks the same grid in the tests.
#pragma once

#if defined(__CUDACC__)
#define ROPEEXPORT_BOTH __host__ __device__ __forceinline__
#else
#define ROPEEXPORT_BOTH inline
#endif

#if defined(__CUDA_ARCH__)
#define ROPEEXPORT_UNROLL _Pragma("unroll")
#define ROPEEXPORT_NO_UNROLL _Pragma("unroll 1")
#else
#define ROPEEXPORT_UNROLL
#define ROPEEXPORT_NO_UNROLL
#endif

// --use_fast_math flushes denormals and would break the equality with eager bit for bit
#if defined(__USE_FAST_MATH__) || defined(__FAST_MATH__)
#error "ropeexport: compile without fast math, whose results are not those of eager torch"
#endif
