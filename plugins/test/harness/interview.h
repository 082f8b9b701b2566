// A library under questioning: what it is asked, and how its answers are judged.
#pragma once

#include <string>

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

// What TensorRT asks of a plugin while it builds an engine.
void drive_build(Interview& interview, nvinfer1::IPluginV3& plugin);

// What it asks of one that an engine was loaded with.
void drive_runtime(Interview& interview, nvinfer1::IPluginV3& loaded);

}  // namespace harness
