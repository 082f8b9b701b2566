#include <array>
#include <thread>

#include "interview.h"
#include "tensors.h"

namespace harness {
namespace {

using nvinfer1::DataType;

Plugin context_of(nvinfer1::IPluginV3& loaded) {
  return Plugin(capabilities_of(loaded).runtime->attachToContext(nullptr));
}

bool changes_shape(const Form& form, nvinfer1::IPluginV3& context, const Shapes& given,
                   DataType type) {
  const StaticTensors tensors = static_tensors(form, given, type);
  return capabilities_of(context).runtime->onShapeChange(
             tensors.data(), form.inputs(), tensors.data() + form.inputs(), form.outputs()) == 0;
}

void check_shapes(Interview& in, nvinfer1::IPluginV3& context) {
  for (const auto& [what, given] : right_shapes(in.form)) {
    in.accepted(changes_shape(in.form, context, given, DataType::kBF16),
                std::string("shape: ") + what);
  }
  for (const auto& [what, given] : wrong_shapes(in.form)) {
    in.refused(!changes_shape(in.form, context, given, DataType::kBF16),
               std::string("shape: ") + what);
  }
  in.refused(!changes_shape(in.form, context, shapes(Sizes{}), DataType::kINT8),
             "shape: int8 data");
}

int enqueue_without_arrays(const Form& form, nvinfer1::IPluginV3& context, const Sizes& sizes) {
  const StaticTensors tensors = static_tensors(form, shapes(sizes), DataType::kHALF);
  const void* const inputs[6] = {};
  void* const outputs[2] = {};
  return capabilities_of(context).runtime->enqueue(tensors.data(), tensors.data() + form.inputs(),
                                                   inputs, outputs, nullptr, nullptr);
}

// What needs no launch, and so no GPU.
void check_enqueue(Interview& in, nvinfer1::IPluginV3& context) {
  in.accepted(enqueue_without_arrays(in.form, context, {2, 4, 4, 0, 8, 1, 1}) == 0,
              "enqueue: length zero");
  in.accepted(enqueue_without_arrays(in.form, context, {0, 4, 4, 6, 8, 1, 1}) == 0,
              "enqueue: batch zero");
  // TensorRT never does this; it must come back as an error, not as a crash
  const bool failed = enqueue_without_arrays(in.form, context, Sizes{}) != 0;
  in.report.expect(failed && in.journal.take_errors().size() == 1,
                   "refused: enqueue without arrays", "without one message");
}

constexpr int kThreads = 8;
constexpr int kRounds = 200;

int rounds_done(const Form& form, nvinfer1::IPluginV3& loaded, int thread) {
  int done = 0;
  for (int round = 0; round < kRounds; ++round) {
    const Plugin context = context_of(loaded);
    const Sizes sizes{1 + thread, 4, 4, 1 + round, 8, 1, 1};
    done += context && changes_shape(form, *context, shapes(sizes), DataType::kHALF);
  }
  return done;
}

void check_threads(Interview& in, nvinfer1::IPluginV3& loaded) {
  std::array<int, kThreads> done{};
  std::array<std::thread, kThreads> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads[i] = std::thread([&, i] { done[i] = rounds_done(in.form, loaded, i); });
  }
  for (auto& thread : threads) thread.join();
  int all = 0;
  for (const int count : done) all += count;
  in.accepted(all == kThreads * kRounds, "contexts of several threads at once");
}

}  // namespace

void drive_runtime(Interview& in, nvinfer1::IPluginV3& loaded) {
  const Plugin context = context_of(loaded);
  if (!in.report.expect(context && context.get() != &loaded, "attach to a context")) return;
  check_shapes(in, *context);
  check_enqueue(in, *context);
  check_threads(in, loaded);
}

}  // namespace harness
