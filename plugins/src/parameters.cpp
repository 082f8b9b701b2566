#include "parameters.h"

#include <cstring>

#include "log.h"

namespace ropeexport {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::TensorRTPhase;

constexpr char kContractField[] = "contract";

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

bool is_contract(const PluginField& field) noexcept {
  return field.name && std::strcmp(field.name, kContractField) == 0;
}

bool read_field(const PluginField& field, Parameters& parameters, bool& found) noexcept {
  if (!is_contract(field)) {
    return refuse("expected no field but %s, got %s", kContractField,
                  field.name ? field.name : "one without a name");
  }
  found = true;
  return read_contract(field, parameters.contract);
}

}  // namespace

std::optional<Parameters> read_parameters(const PluginFieldCollection* fields,
                                          TensorRTPhase phase) noexcept {
  Parameters parameters;
  bool found = false;
  const std::int32_t count = fields ? fields->nbFields : 0;
  for (std::int32_t i = 0; i < count; ++i) {
    if (!read_field(fields->fields[i], parameters, found)) return std::nullopt;
  }
  if (phase == TensorRTPhase::kRUNTIME && !found) {
    refuse("expected field %s from the engine, got none: it was not built with this plugin",
           kContractField);
    return std::nullopt;
  }
  return parameters;
}

SerializedParameters::SerializedParameters(const Parameters& parameters) noexcept
    : field_{kContractField, &parameters.contract, PluginFieldType::kINT32, 1},
      collection_{1, &field_} {}

}  // namespace ropeexport
