// What varies between forms of RoPE: where a pair lies in a row, and what it is multiplied by.
//
// A unit is what one thread holds of a row: kPairs pairs in kAccesses accesses of kWidth elements.
#pragma once

#include <cstdint>

#include "ropeexport/arithmetic.cuh"
#include "ropeexport/memory.cuh"
#include "ropeexport/params.cuh"

namespace ropeexport {

// Pairs of neighbours: (x0, x1), (x2, x3), … FLUX, GPT-J.
struct Interleaved {
  template <int kWidth>
  struct Unit {
    static constexpr int kAccesses = kWidth == 1 ? 2 : 1;
    static constexpr int kPairs = kWidth * kAccesses / 2;
    // where an access begins in the row
    ROPEEXPORT_BOTH static std::int64_t element(std::int64_t unit, int access, std::int64_t) {
      return (unit * kAccesses + access) * kWidth;
    }
    // where a pair's elements lie in the unit
    ROPEEXPORT_BOTH static constexpr int first(int pair) { return 2 * pair; }
    ROPEEXPORT_BOTH static constexpr int second(int pair) { return 2 * pair + 1; }
  };
};

// Pairs of halves: (x0, x[R/2]), (x1, x[R/2 + 1]), … Llama, GPT-NeoX.
struct Half {
  template <int kWidth>
  struct Unit {
    static constexpr int kAccesses = 2;
    static constexpr int kPairs = kWidth;
    ROPEEXPORT_BOTH static std::int64_t element(std::int64_t unit, int access,
                                                std::int64_t rotary_size) {
      return access * (rotary_size / 2) + unit * kWidth;
    }
    ROPEEXPORT_BOTH static constexpr int first(int pair) { return pair; }
    ROPEEXPORT_BOTH static constexpr int second(int pair) { return kWidth + pair; }
  };
};

template <int kCount, bool kWide>
ROPEEXPORT_BOTH void load_floats(const float* from, float (&to)[kCount]) {
  constexpr int kPack = !kWide ? 1 : kCount >= 4 ? 4 : kCount;
  ROPEEXPORT_UNROLL
  for (int i = 0; i < kCount; i += kPack) {
    const auto pack = load_shared_by_heads<Pack<float, kPack>>(from + i);
    ROPEEXPORT_UNROLL
    for (int j = 0; j < kPack; ++j) to[i + j] = pack.values[j];
  }
}

// General 2x2 matrices.
struct Matrices {
  static constexpr int kFloats = 4;  // of one pair, side by side
  static constexpr bool kHasSecond = false;

  template <int kPairs, bool kWide>
  struct Loaded {
    float entries[4 * kPairs];

    ROPEEXPORT_BOTH void load(const Coefficients& pe, std::int64_t offset) {
      load_floats<4 * kPairs, kWide>(pe.first + offset, entries);
    }
    ROPEEXPORT_BOTH Pair rotate(int pair, Pair x) const {
      const float* m = entries + 4 * pair;
      return {dot(m[0], m[1], x), dot(m[2], m[3], x)};
    }
  };
};

// Rotations, from a table of cosines and one of sines.
struct Tables {
  static constexpr int kFloats = 1;
  static constexpr bool kHasSecond = true;

  template <int kPairs, bool kWide>
  struct Loaded {
    float cos[kPairs];
    float sin[kPairs];

    ROPEEXPORT_BOTH void load(const Coefficients& pe, std::int64_t offset) {
      load_floats<kPairs, kWide>(pe.first + offset, cos);
      load_floats<kPairs, kWide>(pe.second + offset, sin);
    }
    ROPEEXPORT_BOTH Pair rotate(int pair, Pair x) const {
      return {dot(cos[pair], -sin[pair], x), dot(sin[pair], cos[pair], x)};
    }
  };
};

// One compiled kernel: a type, a width of access, and the policies.
template <typename T, int kWidth, class Pairing, class Form, bool kPerHead, bool kPartial>
struct Variant {
  using Element = T;
  using Unit = typename Pairing::template Unit<kWidth>;
  using Access = Pack<T, kWidth>;
  using Loaded = typename Form::template Loaded<Unit::kPairs, (kWidth > 1)>;
  static constexpr int kAccessWidth = kWidth;
  static constexpr int kElements = kWidth * Unit::kAccesses;  // of a row, held by one thread
  static constexpr int kFloatsPerUnit = Form::kFloats * Unit::kPairs;
  static constexpr bool kCoefficientsPerHead = kPerHead;
  static constexpr bool kCopiesRest = kPartial;
  // Loads under way at once: four hide the memory's latency, and more cost registers; coefficients
  // of each head's own are loads as well.
  static constexpr int kHeadsInFlight = (kPerHead ? 2 : 4) / (Unit::kAccesses == 2 ? 2 : 1);
  // Resident blocks that are asked for, which caps the registers of a thread at 64 and at 96: as
  // many as hold the coefficients and the heads in flight without spilling.
  static constexpr int kResidentBlocks = kFloatsPerUnit > 16 ? 5 : 8;
};

}  // namespace ropeexport
