// Loads and stores of several elements at once.
#pragma once

#include <cstdint>
#include <cstring>

#include "ropeexport/compiler.cuh"

namespace ropeexport {

// kCount elements that are read and written as one access; addresses are multiples of its size.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};

// The machine's type of that size: what makes the compiler emit one access.
template <int kBytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

#if defined(__CUDACC__)
// In PTX, because the compiler cuts a vector that it built from parts into stores of its parts.
__device__ __forceinline__ void store_word(unsigned short* to, unsigned short word) { *to = word; }
__device__ __forceinline__ void store_word(unsigned int* to, unsigned int word) { *to = word; }
__device__ __forceinline__ void store_word(uint2* to, uint2 word) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(word.x), "r"(word.y) : "memory");
}
__device__ __forceinline__ void store_word(uint4* to, uint4 word) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word.x), "r"(word.y),
               "r"(word.z), "r"(word.w)
               : "memory");
}
#endif

// Data is read once: it leaves the caches first, so that the coefficients stay in them.
template <typename P>
ROPEEXPORT_BOTH P load_once(const void* from) {
  P pack;
#if defined(__CUDA_ARCH__)
  using W = typename Word<sizeof(P)>::type;
  const W word = __ldcs(static_cast<const W*>(from));
  memcpy(&pack, &word, sizeof(P));
#else
  std::memcpy(&pack, from, sizeof(P));
#endif
  return pack;
}

// Coefficients are read by the threads of several groups of heads, and by nobody written.
template <typename P>
ROPEEXPORT_BOTH P load_shared_by_heads(const void* from) {
  P pack;
#if defined(__CUDA_ARCH__)
  using W = typename Word<sizeof(P)>::type;
  const W word = __ldg(static_cast<const W*>(from));
  memcpy(&pack, &word, sizeof(P));
#else
  std::memcpy(&pack, from, sizeof(P));
#endif
  return pack;
}

// Results stay in the L2 where they fit: the attention reads them next.
template <typename P>
ROPEEXPORT_BOTH void store(void* to, const P& pack) {
#if defined(__CUDA_ARCH__)
  using W = typename Word<sizeof(P)>::type;
  W word;
  memcpy(&word, &pack, sizeof(P));
  store_word(static_cast<W*>(to), word);
#else
  std::memcpy(to, &pack, sizeof(P));
#endif
}

}  // namespace ropeexport
