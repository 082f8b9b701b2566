// Division by a number that is known when a kernel is launched, as one multiplication.
//
// Granlund and Montgomery, "Division by Invariant Integers using Multiplication" (PLDI 1994),
// figure 4.1: q = (mulhi(n, m) + n) >> s. Dividends stay under 2^31 so that the sum fits.
#pragma once

#include <cstdint>

#include "ropeexport/compiler.cuh"

namespace ropeexport {

struct Divisor {
  std::uint32_t value = 1;
  std::uint32_t multiplier = 1;
  std::uint32_t shift = 0;

  ROPEEXPORT_BOTH std::uint32_t quotient(std::uint32_t n) const {
    const auto high = static_cast<std::uint32_t>((std::uint64_t{n} * multiplier) >> 32);
    return (high + n) >> shift;
  }
};

// `value` is in [1, 2^31].
inline Divisor make_divisor(std::uint32_t value) {
  std::uint32_t shift = 0;
  while ((std::uint64_t{1} << shift) < value) ++shift;
  const std::uint64_t excess = (std::uint64_t{1} << shift) - value;
  return {value, static_cast<std::uint32_t>((excess << 32) / value + 1), shift};
}

}  // namespace ropeexport
