// A library under questioning: what it is asked, and how its answers are judged.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "library.h"
#include "report.h"
#include "tensors.h"

namespace harness {

struct Interview {
  Interview(const Library& library, Journal& said, const Form& about, Report& to)
      : journal(said), report(to), form(about), creator(library.creator(about.name)) {}

  // A refusal is an answer and one message that says what was expected and got.
  void refused(bool was_refused, const std::string& what) {
    const auto errors = journal.take_errors();
    const bool explained = errors.size() == 1 && errors[0].find("expected") != std::string::npos &&
                           errors[0].find("got") != std::string::npos;
    report.expect(was_refused && explained, "refused: " + what,
                  was_refused ? "without one message of expected and got" : "it was accepted");
  }
  void accepted(bool was_accepted, const std::string& what) {
    const auto errors = journal.take_errors();
    report.expect(was_accepted && errors.empty(), what, errors.empty() ? "refused" : errors[0]);
  }

  Journal& journal;
  Report& report;
  const Form& form;
  nvinfer1::IPluginCreatorV3One& creator;
};

// A node's attributes, and an engine's fields, of a form.
class Fields {
 public:
  explicit Fields(const Form& form) : axis_(form.axis), transposed_(form.transposed) {
    if (form.transposed) std::swap(perm_[1], perm_[2]);
    if (!form.normed) return;
    node_ = {epsilon(), {"axis", &axis_, nvinfer1::PluginFieldType::kINT32, 1}, perm()};
    engine_ = {epsilon(),
               {"axis", &axis_, nvinfer1::PluginFieldType::kINT32, 1},
               {"transposed", &transposed_, nvinfer1::PluginFieldType::kINT32, 1}};
  }
  Fields(const Fields&) = delete;
  Fields& operator=(const Fields&) = delete;

  const std::vector<nvinfer1::PluginField>& node() const { return node_; }
  // Those of an engine beside its contract.
  const std::vector<nvinfer1::PluginField>& engine() const { return engine_; }

 private:
  nvinfer1::PluginField epsilon() const {
    return {"epsilon", &epsilon_, nvinfer1::PluginFieldType::kFLOAT32, 1};
  }
  nvinfer1::PluginField perm() const {
    return {"perm", perm_, nvinfer1::PluginFieldType::kINT32, 4};
  }

  const float epsilon_ = 1e-5F;
  const std::int32_t axis_;
  const std::int32_t transposed_;
  std::int32_t perm_[4] = {0, 1, 2, 3};
  std::vector<nvinfer1::PluginField> node_;
  std::vector<nvinfer1::PluginField> engine_;
};

// What TensorRT asks of a plugin while it builds an engine.
void drive_build(Interview& interview, nvinfer1::IPluginV3& plugin);

// What it asks of one that an engine was loaded with.
void drive_runtime(Interview& interview, nvinfer1::IPluginV3& loaded);

}  // namespace harness
