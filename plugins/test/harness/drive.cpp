// The library through its own interface, in the order in which TensorRT goes: a creator, a plugin
// while a network is built, its fields in an engine file, a plugin again, contexts.
#include "drive.h"

#include <cstring>
#include <vector>

#include "interview.h"

namespace harness {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::TensorRTPhase;

void check_creator(Interview& in) {
  in.report.expect(std::strcmp(in.creator.getPluginNamespace(), "ropeexport") == 0, "namespace",
                   in.creator.getPluginNamespace());
  std::printf("     version %s\n", in.creator.getPluginVersion());
  in.report.expect(in.creator.getFieldNames() != nullptr, "field names");
}

bool creates(Interview& in, const std::vector<PluginField>& fields, TensorRTPhase phase) {
  const PluginFieldCollection all{static_cast<std::int32_t>(fields.size()), fields.data()};
  return Plugin(in.creator.createPlugin("rope", &all, phase)) != nullptr;
}

void check_fields(Interview& in) {
  const std::int32_t one = 1;
  const std::int32_t two = 2;
  const PluginField good{"contract", &one, PluginFieldType::kINT32, 1};
  in.accepted(creates(in, {}, TensorRTPhase::kBUILD), "create from an empty collection");
  in.accepted(creates(in, {good}, TensorRTPhase::kRUNTIME), "create from the field of an engine");
  const auto refuses = [&](const std::vector<PluginField>& fields, const char* what) {
    in.refused(!creates(in, fields, TensorRTPhase::kRUNTIME), what);
  };
  refuses({}, "an engine without the field");
  refuses({{"contract", &two, PluginFieldType::kINT32, 1}}, "a field of another value");
  refuses({{"contract", &one, PluginFieldType::kFLOAT32, 1}}, "a field of another type");
  refuses({{"contract", &one, PluginFieldType::kINT32, 2}}, "a field of another length");
  refuses({{"contract", nullptr, PluginFieldType::kINT32, 1}}, "a field without data");
  refuses({good, {"other", &one, PluginFieldType::kINT32, 1}}, "an unknown field");
  refuses({{nullptr, &one, PluginFieldType::kINT32, 1}}, "a field without a name");
}

// A copy that outlives what it was made of.
Plugin check_clone(Interview& in, Plugin plugin) {
  Plugin copy(plugin->clone());
  if (!in.report.expect(copy && copy != plugin, "clone")) return plugin;
  plugin.reset();
  const Capabilities able = capabilities_of(*copy);
  in.report.expect(std::strcmp(able.core->getPluginVersion(), in.creator.getPluginVersion()) == 0,
                   "a clone has the creator's version");
  in.report.equal(1, able.runtime->getFieldsToSerialize()->nbFields, "fields of a clone");
  return copy;
}

void drive_form(Interview& in) {
  Report& report = in.report;
  check_creator(in);
  check_fields(in);
  Plugin built(in.creator.createPlugin("rope", nullptr, TensorRTPhase::kBUILD));
  if (!report.expect(built != nullptr, "create for a build")) return;
  drive_build(in, *built);
  built = check_clone(in, std::move(built));
  const Plugin loaded = deserialized(in.creator, *built);
  built.reset();
  if (report.expect(loaded != nullptr, "create from the serialised fields")) {
    drive_runtime(in, *loaded);
  }
}

}  // namespace

void drive(const std::string& path, Report& report) {
  Journal journal;
  const Library library(path, journal);
  report.equal<std::size_t>(ropeexport::kFormCount, library.creators().size(),
                            "number of creators");
  for (const Form& form : ropeexport::kForms) {
    std::printf("     %s\n", form.name);
    Interview in(library, journal, form, report);
    drive_form(in);
  }
}

}  // namespace harness
