// The forms of the rotary op, a plugin each. ropeexport/ops/forms.py makes the same names.
#pragma once

#include <cstdint>

#include "identity.h"

namespace ropeexport {

struct Form {
  const char* name;
  bool tables;   // cos and sin (B or 1, L, P), rotations; else pe, general 2x2 matrices
  bool halves;   // pairs of elements i and i + P; else of neighbours
  bool partial;  // 2P may be less than D: the first 2P elements are rotated, the rest passes
  std::int32_t rotated;  // tensors: 2, q and k, or 1
  bool normed;           // an RMS norm comes first, by a scale of each tensor

  constexpr std::int32_t inputs() const { return scales() + (normed ? rotated : 0); }
  constexpr std::int32_t outputs() const { return rotated; }
  // Where the coefficients begin among the inputs, and the scales.
  constexpr std::int32_t coefficients() const { return rotated; }
  constexpr std::int32_t scales() const { return rotated + (tables ? 2 : 1); }
};

}  // namespace ropeexport
