// The op in plain loops, for the driver to compare with. Compile with -ffp-contract=off.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernel.h"

namespace ropeexport::bench {

struct Sizes {
  std::int64_t batch, q_heads, k_heads, length, head_size, pe_batch, pe_heads;
};

inline float widened(float x) { return x; }
inline float widened(__half x) { return __half2float(x); }
inline float widened(__nv_bfloat16 x) { return __bfloat162float(x); }
inline void narrow_to(float& to, float x) { to = x; }
inline void narrow_to(__half& to, float x) { to = __float2half_rn(x); }
inline void narrow_to(__nv_bfloat16& to, float x) { to = __float2bfloat16_rn(x); }

struct Matrix {
  float m00, m01, m10, m11;
};

// The matrix of one pair of one row of `pe`, (Bp, Hp, L, D/2, 2, 2), or of cosines and sines.
inline Matrix matrix_of(const std::vector<float>& first, const std::vector<float>& second,
                        std::size_t pair) {
  if (second.empty()) {
    const float* m = first.data() + 4 * pair;
    return {m[0], m[1], m[2], m[3]};
  }
  return {first[pair], -second[pair], second[pair], first[pair]};
}

// One tensor (B, heads, L, D), rotated.
template <typename T>
std::vector<T> rotated(const std::vector<T>& x, std::int64_t heads, const Sizes& s, Form form,
                       const std::vector<float>& first, const std::vector<float>& second) {
  const std::int64_t pairs = s.head_size / 2;
  std::vector<T> out(x.size());
  for (std::int64_t row = 0; row < s.batch * heads * s.length; ++row) {
    const std::int64_t l = row % s.length;
    const std::int64_t h = row / s.length % heads;
    const std::int64_t b = row / s.length / heads;
    const std::int64_t pe_row =
        ((s.pe_batch == 1 ? 0 : b) * s.pe_heads + (s.pe_heads == 1 ? 0 : h)) * s.length + l;
    for (std::int64_t p = 0; p < pairs; ++p) {
      const std::int64_t i0 = row * s.head_size + (form == kTablesHalf ? p : 2 * p);
      const std::int64_t i1 = form == kTablesHalf ? i0 + pairs : i0 + 1;
      const Matrix m = matrix_of(first, second, static_cast<std::size_t>(pe_row * pairs + p));
      const float x0 = widened(x[i0]);
      const float x1 = widened(x[i1]);
      narrow_to(out[i0], m.m00 * x0 + m.m01 * x1);
      narrow_to(out[i1], m.m10 * x0 + m.m11 * x1);
    }
  }
  return out;
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace ropeexport::bench
