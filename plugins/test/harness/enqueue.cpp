#include "enqueue.h"

#include <array>
#include <deque>

#include "cases.h"
#include "device.h"
#include "library.h"
#include "tensors.h"

namespace harness {
namespace {

constexpr int kStreams = 4;
const Form kForm{ropeexport::kForms[0]};  // q and k by general matrices

// One execution context with inputs and outputs of its own.
class Run {
 public:
  Run(const Case& c, nvinfer1::IPluginV3& loaded)
      : case_(c),
        context_(capabilities_of(loaded).runtime->attachToContext(nullptr)),
        tensors_(static_tensors(kForm, shapes(c.sizes), c.type)),
        q_(c.q, bytes(c)),
        k_(c.k, bytes(c)),
        pe_(c.pe, c.offset * sizeof(float)),
        q_out_(c.q_out.size(), bytes(c)),
        k_out_(c.k_out.size(), bytes(c)) {
    const auto status =
        context_ ? runtime().onShapeChange(tensors_.data(), 3, tensors_.data() + 3, 2) : -1;
    if (status != 0) throw std::runtime_error(c.name + ": the shapes are refused");
  }

  void enqueue(cudaStream_t stream) {
    const std::array<const void*, 3> inputs{q_.data(), k_.data(), pe_.data()};
    const std::array<void*, 2> outputs{q_out_.data(), k_out_.data()};
    if (runtime().enqueue(tensors_.data(), tensors_.data() + 3, inputs.data(), outputs.data(),
                          nullptr, stream) != 0) {
      throw std::runtime_error(case_.name + ": enqueue failed");
    }
  }

  void clear() {
    q_out_.clear();
    k_out_.clear();
  }

  void verify(const std::string& how, Report& report) const {
    const std::size_t q = differences(case_.q_out, q_out_.content(), case_.type);
    const std::size_t k = differences(case_.k_out, k_out_.content(), case_.type);
    report.expect(q == 0 && k == 0, case_.name + " " + how,
                  std::to_string(q) + " elements of q and " + std::to_string(k) + " of k differ");
    const bool inputs =
        q_.content() == case_.q && k_.content() == case_.k && pe_.content() == case_.pe;
    report.expect(q_out_.guards_hold() && k_out_.guards_hold() && inputs,
                  case_.name + " " + how + ", nothing else written");
  }

 private:
  static std::size_t bytes(const Case& c) { return c.offset * element_bytes(c.type); }
  nvinfer1::IPluginV3OneRuntime& runtime() { return *capabilities_of(*context_).runtime; }

  const Case& case_;
  Plugin context_;
  StaticTensors tensors_;
  DeviceArray q_, k_, pe_, q_out_, k_out_;
};

void run_once(const Case& c, nvinfer1::IPluginV3& loaded, Report& report) {
  const Stream stream;
  Run run(c, loaded);
  run.enqueue(stream.get());
  stream.wait();
  run.verify("on one stream", report);
}

void run_at_once(const Case& c, nvinfer1::IPluginV3& loaded, Report& report) {
  const std::array<Stream, kStreams> streams;
  std::deque<Run> runs;
  for (int i = 0; i < kStreams; ++i) runs.emplace_back(c, loaded);
  for (int i = 0; i < kStreams; ++i) runs[i].enqueue(streams[i].get());
  for (const Stream& stream : streams) stream.wait();
  for (const Run& run : runs) run.verify("on several streams", report);
}

void run_captured(const Case& c, nvinfer1::IPluginV3& loaded, Report& report) {
  const Stream stream;
  Run run(c, loaded);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "begin a capture");
  run.enqueue(stream.get());
  check(cudaStreamEndCapture(stream.get(), &graph), "end a capture");
  check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  for (int launch = 0; launch < 2; ++launch) {
    run.clear();
    check(cudaGraphLaunch(executable, stream.get()), "cudaGraphLaunch");
    stream.wait();
    run.verify("from a graph", report);
  }
  check(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
  check(cudaGraphDestroy(graph), "cudaGraphDestroy");
}

}  // namespace

void enqueue_cases(const std::string& path, const std::string& folder, Report& report) {
  const std::vector<Case> cases = read_cases(folder);
  require_gpu();
  Journal journal;
  const Library library(path, journal);
  const Plugin built(
      library.creator(kForm.name).createPlugin("rope", nullptr, nvinfer1::TensorRTPhase::kBUILD));
  if (!built) throw Unusable("no plugin was created");
  const Plugin loaded = deserialized(library.creator(kForm.name), *built);
  if (!loaded) throw Unusable("no plugin was created from the serialised fields");
  for (const Case& c : cases) {
    run_once(c, *loaded, report);
    run_at_once(c, *loaded, report);
    run_captured(c, *loaded, report);
  }
  for (const std::string& error : journal.take_errors()) report.expect(false, "no errors", error);
}

}  // namespace harness
