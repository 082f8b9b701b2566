#include "parameters.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

#include "log.h"

namespace ropeexport {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::TensorRTPhase;

constexpr char kContractField[] = "contract";
constexpr char kEpsilonField[] = "epsilon";
constexpr char kAxisField[] = "axis";
constexpr char kPermField[] = "perm";              // of a node
constexpr char kTransposedField[] = "transposed";  // what an engine has of it

constexpr std::int32_t kAxes = 4;
constexpr std::int64_t kAsItIs[kAxes] = {0, 1, 2, 3};
constexpr std::int64_t kTransposed[kAxes] = {0, 2, 1, 3};

bool is_named(const PluginField& field, const char* name) noexcept {
  return field.name && std::strcmp(field.name, name) == 0;
}

bool read_contract(const PluginField& field, std::int32_t& contract) noexcept {
  if (field.type != PluginFieldType::kINT32 || field.length != 1 || !field.data) {
    return refuse("field %s: expected one int32, got %d values of type %d", kContractField,
                  static_cast<int>(field.length), static_cast<int>(field.type));
  }
  std::memcpy(&contract, field.data, sizeof(contract));
  if (contract != kContract) {
    return refuse(
        "field %s: expected %d, got %d; rebuild the engine, or load the plugin library "
        "that it was built with",
        kContractField, static_cast<int>(kContract), static_cast<int>(contract));
  }
  return true;
}

bool read_epsilon(const PluginField& field, float& epsilon) noexcept {
  if (field.type != PluginFieldType::kFLOAT32 || field.length != 1 || !field.data) {
    return refuse("field %s: expected one float32, got %d values of type %d", kEpsilonField,
                  static_cast<int>(field.length), static_cast<int>(field.type));
  }
  std::memcpy(&epsilon, field.data, sizeof(epsilon));
  if (std::isfinite(epsilon) && epsilon >= 0.0F) return true;
  return refuse("field %s: expected a finite number that is not negative, got %g", kEpsilonField,
                static_cast<double>(epsilon));
}

template <typename T>
void copy_integers(const PluginField& field, std::int64_t* to) noexcept {
  for (std::int32_t i = 0; i < field.length; ++i) {
    T value;
    std::memcpy(&value, static_cast<const char*>(field.data) + i * sizeof(T), sizeof(T));
    to[i] = value;
  }
}

// TensorRT's parsers give an ONNX node's integers as either type.
bool read_integers(const PluginField& field, std::int32_t count, std::int64_t* to) noexcept {
  const bool is_wide = field.type == PluginFieldType::kINT64;
  if ((!is_wide && field.type != PluginFieldType::kINT32) || field.length != count || !field.data) {
    return refuse("field %s: expected %d of int32 or int64, got %d values of type %d", field.name,
                  static_cast<int>(count), static_cast<int>(field.length),
                  static_cast<int>(field.type));
  }
  is_wide ? copy_integers<std::int64_t>(field, to) : copy_integers<std::int32_t>(field, to);
  return true;
}

// One of two values of an integer.
bool read_choice(const PluginField& field, std::int32_t a, std::int32_t b,
                 std::int32_t& to) noexcept {
  std::int64_t value = 0;
  if (!read_integers(field, 1, &value)) return false;
  to = value == a ? a : b;
  if (value == a || value == b) return true;
  return refuse("field %s: expected %d or %d, got %lld", field.name, static_cast<int>(a),
                static_cast<int>(b), static_cast<long long>(value));
}

bool read_perm(const PluginField& field, std::int32_t& transposed) noexcept {
  std::int64_t perm[kAxes];
  if (!read_integers(field, kAxes, perm)) return false;
  transposed = std::equal(perm, perm + kAxes, kTransposed) ? 1 : 0;
  if (transposed || std::equal(perm, perm + kAxes, kAsItIs)) return true;
  return refuse("field %s: expected [0, 1, 2, 3] or [0, 2, 1, 3], got [%lld, %lld, %lld, %lld]",
                kPermField, static_cast<long long>(perm[0]), static_cast<long long>(perm[1]),
                static_cast<long long>(perm[2]), static_cast<long long>(perm[3]));
}

// What is read in a phase, by the name of each field.
class Reader {
 public:
  Reader(const Form& form, TensorRTPhase phase) noexcept
      : is_normed_(form.normed), is_engine_(phase == TensorRTPhase::kRUNTIME) {}

  bool read(const PluginField& field) noexcept {
    if (is_named(field, kContractField)) {
      has_contract_ = true;
      return read_contract(field, parameters_.contract);
    }
    if (is_normed_ && is_named(field, kEpsilonField)) {
      has_epsilon_ = true;
      return read_epsilon(field, parameters_.epsilon);
    }
    if (is_normed_ && is_named(field, kAxisField)) {
      has_axis_ = true;
      return read_choice(field, -1, -2, parameters_.axis);
    }
    if (is_normed_ && is_named(field, layout_field())) {
      has_layout_ = true;
      return is_engine_ ? read_choice(field, 0, 1, parameters_.transposed)
                        : read_perm(field, parameters_.transposed);
    }
    return refuse_unknown(field);
  }

  // What fields say beside one another, once all are read.
  std::optional<Parameters> finish() const noexcept {
    if ((is_engine_ && !expect(has_contract_, kContractField)) ||
        (is_normed_ && !(expect(has_epsilon_, kEpsilonField) && expect(has_axis_, kAxisField) &&
                         expect(has_layout_, layout_field())))) {
      return std::nullopt;
    }
    if (parameters_.axis == -2 && !parameters_.transposed) {
      refuse("field %s: expected -1 where the data is (B, H, L, D), got -2", kAxisField);
      return std::nullopt;
    }
    return parameters_;
  }

 private:
  const char* layout_field() const noexcept { return is_engine_ ? kTransposedField : kPermField; }

  bool refuse_unknown(const PluginField& field) const noexcept {
    const char* const name = field.name ? field.name : "one without a name";
    if (!is_normed_) return refuse("expected no field but %s, got %s", kContractField, name);
    return refuse("expected no field but %s, %s, %s and %s, got %s", kContractField, kEpsilonField,
                  kAxisField, layout_field(), name);
  }

  bool expect(bool is_there, const char* name) const noexcept {
    if (is_there) return true;
    return is_engine_ ? refuse(
                            "expected field %s from the engine, got none: it was not built with "
                            "this plugin",
                            name)
                      : refuse("expected attribute %s of the ONNX node, got none", name);
  }

  const bool is_normed_;
  const bool is_engine_;
  Parameters parameters_;
  bool has_contract_ = false;
  bool has_epsilon_ = false;
  bool has_axis_ = false;
  bool has_layout_ = false;
};

}  // namespace

std::optional<Parameters> read_parameters(const Form& form, const PluginFieldCollection* fields,
                                          TensorRTPhase phase) noexcept {
  Reader reader(form, phase);
  const std::int32_t count = fields ? fields->nbFields : 0;
  for (std::int32_t i = 0; i < count; ++i) {
    if (!reader.read(fields->fields[i])) return std::nullopt;
  }
  return reader.finish();
}

// Of a rotation alone none: the name says all, and the sizes say what is rotated.
const PluginFieldCollection* attribute_names(const Form& form) noexcept {
  static const PluginField names[] = {{kEpsilonField, nullptr, PluginFieldType::kFLOAT32, 1},
                                      {kAxisField, nullptr, PluginFieldType::kINT32, 1},
                                      {kPermField, nullptr, PluginFieldType::kINT32, kAxes}};
  static const PluginFieldCollection none{0, nullptr};
  static const PluginFieldCollection all{static_cast<std::int32_t>(std::size(names)), names};
  return form.normed ? &all : &none;
}

SerializedParameters::SerializedParameters(const Form& form, const Parameters& parameters) noexcept
    : fields_{{kContractField, &parameters.contract, PluginFieldType::kINT32, 1},
              {kEpsilonField, &parameters.epsilon, PluginFieldType::kFLOAT32, 1},
              {kAxisField, &parameters.axis, PluginFieldType::kINT32, 1},
              {kTransposedField, &parameters.transposed, PluginFieldType::kINT32, 1}},
      collection_{form.normed ? 4 : 1, fields_} {}

}  // namespace ropeexport
