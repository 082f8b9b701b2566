// What one thread does: the same functions on the GPU and in the host test.
#pragma once

#include <cstdint>

#include "ropeexport/arithmetic.cuh"
#include "ropeexport/compiler.cuh"
#include "ropeexport/memory.cuh"
#include "ropeexport/work.cuh"

namespace ropeexport {

// Where a thread works.
struct Place {
  bool has_work;
  bool is_q;
  std::int32_t group;  // of heads, within its tensor
  std::int64_t batch;
  std::int64_t position;
  std::int64_t unit;  // of the row
};

ROPEEXPORT_BOTH Place find_place(const Work& work, std::uint32_t block, std::uint32_t thread) {
  const std::uint32_t column_block = work.groups.quotient(block);
  const std::uint32_t group = block - column_block * work.groups.value;
  const std::uint32_t column = column_block * kThreads + thread;
  const std::uint32_t row = work.units.quotient(column);
  const std::uint32_t batch = work.length.quotient(row);
  const bool is_q = group < work.q_groups;
  return {column < work.columns,
          is_q,
          static_cast<std::int32_t>(is_q ? group : group - work.q_groups),
          batch,
          row - batch * work.length.value,
          column - row * work.units.value};
}

ROPEEXPORT_BOTH std::int64_t row_offset(const Strides& strides, const Place& at,
                                        std::int64_t head) {
  return at.batch * strides.batch + head * strides.head + at.position * strides.length;
}

// The data of one unit of one row.
template <class V>
struct UnitData {
  typename V::Access accesses[V::Unit::kAccesses];

  ROPEEXPORT_BOTH typename V::Element& element(int i) {
    return accesses[i / V::kAccessWidth].values[i % V::kAccessWidth];
  }
};

template <class V>
ROPEEXPORT_BOTH void rotate_unit(const typename V::Loaded& coefficients, UnitData<V>& data) {
  float rotated[V::kElements];
  ROPEEXPORT_UNROLL
  for (int p = 0; p < V::Unit::kPairs; ++p) {
    const int first = V::Unit::first(p);
    const int second = V::Unit::second(p);
    const Pair x{widen(data.element(first)), widen(data.element(second))};
    const Pair y = coefficients.rotate(p, x);
    rotated[first] = y.first;
    rotated[second] = y.second;
  }
  ROPEEXPORT_UNROLL
  for (int i = 0; i < V::kElements; i += 2) {
    typename V::Element narrowed[2];
    narrow(rotated[i], rotated[i + 1], narrowed);
    data.element(i) = narrowed[0];
    data.element(i + 1) = narrowed[1];
  }
}

template <class V>
ROPEEXPORT_BOTH bool is_rotated(const Work& work, const Place& at) {
  return !V::kCopiesRest || at.unit < work.rotating_units;
}

// Where an access of the unit begins in its row.
template <class V>
ROPEEXPORT_BOTH std::int64_t element_offset(const Work& work, const Place& at, int access) {
  if (is_rotated<V>(work, at)) return V::Unit::element(at.unit, access, work.rotary_size);
  const std::int64_t rest = at.unit - work.rotating_units;
  return work.rotary_size + rest * V::kElements + access * V::kAccessWidth;
}

// The heads that a thread goes through: a row in each, a head's stride apart.
template <class V>
struct Heads {
  using T = typename V::Element;
  const T* in[V::Unit::kAccesses];
  T* out[V::Unit::kAccesses];
  std::int64_t in_stride;
  std::int64_t out_stride;
  std::int32_t first;
  std::int32_t left;

  ROPEEXPORT_BOTH void load(int i, UnitData<V>& data) const {
    ROPEEXPORT_UNROLL
    for (int a = 0; a < V::Unit::kAccesses; ++a) {
      data.accesses[a] = load_once<typename V::Access>(in[a] + i * in_stride);
    }
  }
  ROPEEXPORT_BOTH void save(int i, const UnitData<V>& data) const {
    ROPEEXPORT_UNROLL
    for (int a = 0; a < V::Unit::kAccesses; ++a) store(out[a] + i * out_stride, data.accesses[a]);
  }
  ROPEEXPORT_BOTH void advance(int count) {
    ROPEEXPORT_UNROLL
    for (int a = 0; a < V::Unit::kAccesses; ++a) {
      in[a] += count * in_stride;
      out[a] += count * out_stride;
    }
    first += count;
    left -= count;
  }
};

// The rows of a tensor's heads from one on.
template <class V>
ROPEEXPORT_BOTH Heads<V> heads_from(const Work& work, const TensorWork& x, const Place& at,
                                    std::int32_t head) {
  using T = typename V::Element;
  Heads<V> heads;
  heads.first = head;
  heads.left = x.heads - head;
  heads.in_stride = x.in_strides.head;
  heads.out_stride = x.out_strides.head;
  const std::int64_t in = row_offset(x.in_strides, at, head);
  const std::int64_t out = row_offset(x.out_strides, at, head);
  ROPEEXPORT_UNROLL
  for (int a = 0; a < V::Unit::kAccesses; ++a) {
    const std::int64_t offset = element_offset<V>(work, at, a);
    heads.in[a] = reinterpret_cast<const T*>(x.in) + in + offset;
    heads.out[a] = reinterpret_cast<T*>(x.out) + out + offset;
  }
  return heads;
}

// Those of a thread's group.
template <class V>
ROPEEXPORT_BOTH Heads<V> find_heads(const Work& work, const Place& at) {
  const TensorWork& x = work.tensors[at.is_q ? 0 : 1];
  Heads<V> heads = heads_from<V>(work, x, at, at.group * x.heads_per_group);
  if (heads.left > x.heads_per_group) heads.left = x.heads_per_group;
  return heads;
}

template <class V>
ROPEEXPORT_BOTH void load_coefficients(const Work& work, const Place& at, std::int32_t head,
                                       typename V::Loaded& coefficients) {
  const std::int64_t row = row_offset(work.pe.strides, at, head);
  coefficients.load(work.pe, row + at.unit * V::kFloatsPerUnit);
}

// Some heads at once: all their loads are under way before the first is waited for.
template <class V>
ROPEEXPORT_BOTH void rotate_batch(const Work& work, const Place& at, const Heads<V>& heads,
                                  const typename V::Loaded& shared) {
  constexpr int kBatch = V::kHeadsInFlight;
  constexpr bool kOwn = V::kCoefficientsPerHead;
  UnitData<V> data[kBatch];
  typename V::Loaded own[kOwn ? kBatch : 1];
  ROPEEXPORT_UNROLL
  for (int i = 0; i < kBatch; ++i) {
    if (i >= heads.left) continue;
    heads.load(i, data[i]);
    if (kOwn) load_coefficients<V>(work, at, heads.first + i, own[kOwn * i]);
  }
  ROPEEXPORT_UNROLL
  for (int i = 0; i < kBatch; ++i) {
    if (i >= heads.left) continue;
    rotate_unit<V>(kOwn ? own[kOwn * i] : shared, data[i]);
    heads.save(i, data[i]);
  }
}

// The part of a row that no coefficient belongs to.
template <class V>
ROPEEXPORT_BOTH void copy_batch(const Heads<V>& heads) {
  UnitData<V> data[V::kHeadsInFlight];
  ROPEEXPORT_UNROLL
  for (int i = 0; i < V::kHeadsInFlight; ++i) {
    if (i < heads.left) heads.load(i, data[i]);
  }
  ROPEEXPORT_UNROLL
  for (int i = 0; i < V::kHeadsInFlight; ++i) {
    if (i < heads.left) heads.save(i, data[i]);
  }
}

template <class V>
ROPEEXPORT_BOTH void rotate_column(const Work& work, std::uint32_t block, std::uint32_t thread) {
  const Place at = find_place(work, block, thread);
  if (!at.has_work) return;
  Heads<V> heads = find_heads<V>(work, at);
  if (!is_rotated<V>(work, at)) {
    for (; heads.left > 0; heads.advance(V::kHeadsInFlight)) copy_batch<V>(heads);
    return;
  }
  typename V::Loaded shared;
  if (!V::kCoefficientsPerHead) load_coefficients<V>(work, at, 0, shared);
  for (; heads.left > 0; heads.advance(V::kHeadsInFlight)) {
    rotate_batch<V>(work, at, heads, shared);
  }
}

}  // namespace ropeexport
