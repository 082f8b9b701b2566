// The library through its own interface, in the order in which TensorRT goes: a creator, a plugin
// while a network is built, its fields in an engine file, a plugin again, contexts.
#include "drive.h"

#include <cmath>
#include <cstring>
#include <string>
#include <utility>
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
  const PluginFieldCollection* const names = in.creator.getFieldNames();
  if (!in.report.expect(names != nullptr, "attribute names")) return;
  std::string all;
  for (std::int32_t i = 0; i < names->nbFields; ++i)
    all += std::string(names->fields[i].name) + " ";
  in.report.expect(all == (in.form.normed ? "epsilon axis perm " : ""), "attributes", all);
}

bool creates(Interview& in, const std::vector<PluginField>& fields, TensorRTPhase phase) {
  const PluginFieldCollection all{static_cast<std::int32_t>(fields.size()), fields.data()};
  return Plugin(in.creator.createPlugin("rope", &all, phase)) != nullptr;
}

std::vector<PluginField> with(std::vector<PluginField> fields, const PluginField& last) {
  fields.push_back(last);
  return fields;
}

void check_fields(Interview& in, const Fields& fields) {
  const std::int32_t one = 1;
  const std::int32_t two = 2;
  const PluginField good{"contract", &one, PluginFieldType::kINT32, 1};
  in.accepted(creates(in, fields.node(), TensorRTPhase::kBUILD), "create from a node's attributes");
  in.accepted(creates(in, with(fields.engine(), good), TensorRTPhase::kRUNTIME),
              "create from the fields of an engine");
  const auto refuses = [&](const PluginField& last, const char* what) {
    in.refused(!creates(in, with(fields.engine(), last), TensorRTPhase::kRUNTIME), what);
  };
  in.refused(!creates(in, fields.engine(), TensorRTPhase::kRUNTIME), "an engine without contract");
  in.refused(!creates(in, {}, TensorRTPhase::kRUNTIME), "an engine without fields");
  refuses({"contract", &two, PluginFieldType::kINT32, 1}, "a field of another value");
  refuses({"contract", &one, PluginFieldType::kFLOAT32, 1}, "a field of another type");
  refuses({"contract", &one, PluginFieldType::kINT32, 2}, "a field of another length");
  refuses({"contract", nullptr, PluginFieldType::kINT32, 1}, "a field without data");
  refuses({"other", &one, PluginFieldType::kINT32, 1}, "an unknown field");
  refuses({"perm", &one, PluginFieldType::kINT32, 1}, "a node's attribute in an engine");
  refuses({nullptr, &one, PluginFieldType::kINT32, 1}, "a field without a name");
}

// A node's attributes, one of them another one.
void check_attributes(Interview& in, const Fields& fields) {
  const auto changed = [&](const PluginField& other) {
    std::vector<PluginField> all = fields.node();
    for (PluginField& field : all) {
      if (std::strcmp(field.name, other.name) == 0) field = other;
    }
    return all;
  };
  const auto refuses = [&](const PluginField& other, const std::string& what) {
    in.refused(!creates(in, changed(other), TensorRTPhase::kBUILD), what);
  };
  for (const PluginField& left_out : fields.node()) {
    std::vector<PluginField> all;
    for (const PluginField& field : fields.node()) {
      if (field.name != left_out.name) all.push_back(field);
    }
    in.refused(!creates(in, all, TensorRTPhase::kBUILD), std::string("no ") + left_out.name);
  }
  for (const float epsilon : {-1e-6F, INFINITY, -INFINITY, NAN}) {
    refuses({"epsilon", &epsilon, PluginFieldType::kFLOAT32, 1},
            "epsilon " + std::to_string(epsilon));
  }
  const float none = 0.0F;
  in.accepted(
      creates(in, changed({"epsilon", &none, PluginFieldType::kFLOAT32, 1}), TensorRTPhase::kBUILD),
      "no epsilon in the sum");
  refuses({"epsilon", &none, PluginFieldType::kINT32, 1}, "epsilon of another type");
  refuses({"epsilon", &none, PluginFieldType::kFLOAT32, 2}, "two epsilons");
  for (const std::int64_t axis : {-3, 0, 1, 3}) {
    refuses({"axis", &axis, PluginFieldType::kINT64, 1}, "axis " + std::to_string(axis));
  }
  refuses({"axis", &none, PluginFieldType::kFLOAT32, 1}, "axis of another type");
  const std::int64_t axis = in.form.axis;
  in.accepted(
      creates(in, changed({"axis", &axis, PluginFieldType::kINT64, 1}), TensorRTPhase::kBUILD),
      "axis of int64");
  const std::int64_t own[] = {0, in.form.transposed ? 2 : 1, in.form.transposed ? 1 : 2, 3};
  in.accepted(
      creates(in, changed({"perm", own, PluginFieldType::kINT64, 4}), TensorRTPhase::kBUILD),
      "perm of int64");
  const std::int64_t others[][4] = {{0, 1, 3, 2}, {1, 0, 2, 3}, {0, 2, 1, 4}};
  for (const auto& perm : others) {
    refuses({"perm", perm, PluginFieldType::kINT64, 4}, "another perm");
  }
  refuses({"perm", own, PluginFieldType::kINT64, 3}, "perm of three axes");
  if (in.form.axis == -2) {
    const std::int64_t as_it_is[] = {0, 1, 2, 3};
    refuses({"perm", as_it_is, PluginFieldType::kINT64, 4}, "axis -2 of (B, H, L, D)");
  }
}

// Whether an engine's fields say what a node's attributes said.
void check_serialised(Interview& in, const Fields& fields, nvinfer1::IPluginV3& plugin) {
  const auto* const saved = capabilities_of(plugin).runtime->getFieldsToSerialize();
  in.report.equal(in.form.normed ? 4 : 1, saved->nbFields, "number of fields of an engine");
  for (const PluginField& expected : fields.engine()) {
    bool is_there = false;
    for (std::int32_t i = 0; i < saved->nbFields; ++i) {
      const PluginField& got = saved->fields[i];
      is_there |= std::strcmp(got.name, expected.name) == 0 && got.type == expected.type &&
                  got.length == 1 && std::memcmp(got.data, expected.data, 4) == 0;
    }
    in.report.expect(is_there, std::string("field ") + expected.name + " of an engine");
  }
}

// A copy that outlives what it was made of.
Plugin check_clone(Interview& in, const Fields& fields, Plugin plugin) {
  Plugin copy(plugin->clone());
  if (!in.report.expect(copy && copy != plugin, "clone")) return plugin;
  plugin.reset();
  const Capabilities able = capabilities_of(*copy);
  in.report.expect(std::strcmp(able.core->getPluginVersion(), in.creator.getPluginVersion()) == 0,
                   "a clone has the creator's version");
  check_serialised(in, fields, *copy);
  return copy;
}

// Every form with every set of attributes that it may have.
std::vector<Form> forms() {
  std::vector<Form> all;
  for (const ropeexport::Form& form : ropeexport::kForms) {
    all.push_back({form});
    if (form.normed) all.insert(all.end(), {Form{form, -1, true}, Form{form, -2, true}});
  }
  return all;
}

void drive_form(Interview& in) {
  Report& report = in.report;
  check_creator(in);
  const Fields fields(in.form);
  check_fields(in, fields);
  if (in.form.normed) check_attributes(in, fields);
  const PluginFieldCollection node{static_cast<std::int32_t>(fields.node().size()),
                                   fields.node().data()};
  Plugin built(
      in.creator.createPlugin("rope", in.form.normed ? &node : nullptr, TensorRTPhase::kBUILD));
  if (!report.expect(built != nullptr, "create for a build")) return;
  drive_build(in, *built);
  built = check_clone(in, fields, std::move(built));
  const Plugin loaded = deserialized(in.creator, *built);
  built.reset();
  if (report.expect(loaded != nullptr, "create from the serialised fields")) {
    check_serialised(in, fields, *loaded);
    drive_runtime(in, *loaded);
  }
}

}  // namespace

void drive(const std::string& path, Report& report) {
  Journal journal;
  const Library library(path, journal);
  report.equal<std::size_t>(ropeexport::kFormCount, library.creators().size(),
                            "number of creators");
  for (const Form& form : forms()) {
    std::printf("     %s, axis %d%s\n", form.name, static_cast<int>(form.axis),
                form.transposed ? ", transposed" : "");
    Interview in(library, journal, form, report);
    drive_form(in);
  }
}

}  // namespace harness
