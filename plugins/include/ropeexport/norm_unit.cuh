// The norm of what one thread holds of a row: its squares, and what is made of them and of a scale.
//
// Everything is float32, each step rounded once, in a fixed order: results repeat bit for bit, and
// the host test computes the same ones.
#pragma once

#include <cmath>
#include <cstdint>

#include "ropeexport/arithmetic.cuh"
#include "ropeexport/column.cuh"
#include "ropeexport/compiler.cuh"
#include "ropeexport/memory.cuh"
#include "ropeexport/policies.cuh"
#include "ropeexport/work.cuh"

namespace ropeexport {

// a * b + c, rounded once.
ROPEEXPORT_BOTH float fused_sum(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

ROPEEXPORT_BOTH float rounded_quotient(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

ROPEEXPORT_BOTH float rounded_root(float a) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(a);
#else
  return std::sqrt(a);
#endif
}

ROPEEXPORT_BOTH float inverse_root(float squares, float count, float epsilon) {
  const float mean = rounded_quotient(squares, count);
  return rounded_quotient(1.0F, rounded_root(rounded_sum(mean, epsilon)));
}

// What a grid is told of the norm of one tensor.
struct NormTensor {
  const char* scale = nullptr;
  std::int64_t scale_stride = 0;   // from a head to the next: 0 where all have one
  std::int32_t scale_is_wide = 0;  // 1: float32 beside halves
  float count = 1.0F;              // of elements that are normed together
};

// A unit's part of a scale.
template <class V>
struct UnitScale {
  float values[V::Unit::kAccesses][V::kAccessWidth];

  ROPEEXPORT_BOTH float value(int i) const {
    return values[i / V::kAccessWidth][i % V::kAccessWidth];
  }

  // `row`: where the scale of the row begins.
  ROPEEXPORT_BOTH void load(const Work& work, const NormTensor& norm, const Place& at,
                            std::int64_t row) {
    using T = typename V::Element;
    ROPEEXPORT_UNROLL
    for (int a = 0; a < V::Unit::kAccesses; ++a) {
      const std::int64_t offset = row + element_offset<V>(work, at, a);
      if (sizeof(T) < sizeof(float) && norm.scale_is_wide) {
        load_floats<V::kAccessWidth, (V::kAccessWidth > 1)>(
            reinterpret_cast<const float*>(norm.scale) + offset, values[a]);
      } else {
        const auto pack = load_shared_by_heads<typename V::Access>(
            reinterpret_cast<const T*>(norm.scale) + offset);
        ROPEEXPORT_UNROLL
        for (int i = 0; i < V::kAccessWidth; ++i) values[a][i] = widen(pack.values[i]);
      }
    }
  }
};

// The squares of a unit added to those before it, element by element.
template <class V>
ROPEEXPORT_BOTH float add_squares(float sum, UnitData<V>& data) {
  ROPEEXPORT_UNROLL
  for (int i = 0; i < V::kElements; ++i) {
    const float x = widen(data.element(i));
    sum = fused_sum(x, x, sum);
  }
  return sum;
}

// A scale of the data's type says that eager torch rounds to it before it multiplies: FLUX does.
// One of float32 says that it multiplies first.
template <class V>
ROPEEXPORT_BOTH void norm_unit(float inverse, const UnitScale<V>& scale, bool is_rounded_twice,
                               UnitData<V>& data) {
  ROPEEXPORT_UNROLL
  for (int i = 0; i < V::kElements; i += 2) {
    typename V::Element both[2];
    float a = rounded_product(widen(data.element(i)), inverse);
    float b = rounded_product(widen(data.element(i + 1)), inverse);
    if (is_rounded_twice) {
      narrow(a, b, both);
      a = widen(both[0]);
      b = widen(both[1]);
    }
    narrow(rounded_product(a, scale.value(i)), rounded_product(b, scale.value(i + 1)), both);
    data.element(i) = both[0];
    data.element(i + 1) = both[1];
  }
}

// One compiled kernel. Whether coefficients are of each head, whether a part of a row is rotated
// and of which type the scale is are asked at run time, the same for all threads of a block: few
// kernels, and a comparison costs nothing beside the memory.
template <typename T, int kWidth, class Pairing, class Form>
struct NormVariant : Variant<T, kWidth, Pairing, Form, false, true> {
  // The scale is in registers beside the coefficients: 80 a thread.
  static constexpr int kResidentBlocks = 6;
  // Units of a span that a thread keeps between the sum and the rotation: 16 KB a block.
  static constexpr int kUnitsKept = 2 / Pairing::template Unit<kWidth>::kAccesses;
};

}  // namespace ropeexport
