// The library through its own interface, in the order in which TensorRT goes: a creator, a plugin
// while a network is built, its fields in an engine file, a plugin again, contexts.
#include "drive.h"

#include <cstring>
#include <thread>

#include "tensors.h"

namespace harness {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::TensorFormat;
using nvinfer1::TensorRTPhase;

constexpr DataType kTypes[] = {DataType::kFLOAT, DataType::kHALF, DataType::kBF16};
constexpr int kTypeCount = nvinfer1::EnumMax<DataType>();
constexpr int kFormatCount = nvinfer1::EnumMax<TensorFormat>();

class Drive {
 public:
  Drive(const std::string& path, Report& report)
      : report_(report), library_(path, journal_), creator_(library_.creator()) {}

  void run() {
    check_creators();
    check_fields();
    plugin_.reset(creator_.createPlugin("rope", nullptr, TensorRTPhase::kBUILD));
    if (!report_.expect(plugin_ != nullptr, "create for a build")) return;
    check_types();
    check_shapes();
    check_formats();
    check_configure();
    check_clone();
    check_runtime();
  }

 private:
  // A refusal is an answer and a message that says what was expected and got.
  void refused(bool was_refused, const std::string& what) {
    const auto errors = journal_.take_errors();
    const bool explained = errors.size() == 1 && errors[0].find("expected") != std::string::npos &&
                           errors[0].find("got") != std::string::npos;
    report_.expect(was_refused && explained, "refused: " + what,
                   was_refused ? "without one message of expected and got" : "it was accepted");
  }
  void accepted(bool was_accepted, const std::string& what) {
    const auto errors = journal_.take_errors();
    report_.expect(was_accepted && errors.empty(), what, errors.empty() ? "refused" : errors[0]);
  }

  void check_creators() {
    report_.equal<std::size_t>(1, library_.creators().size(), "number of creators");
    report_.expect(std::strcmp(creator_.getPluginName(), "ApplyRope") == 0, "name");
    report_.expect(std::strcmp(creator_.getPluginNamespace(), "ropeexport") == 0, "namespace");
    std::printf("     version %s\n", creator_.getPluginVersion());
    report_.expect(creator_.getFieldNames() != nullptr, "field names");
  }

  bool creates(const std::vector<PluginField>& fields, TensorRTPhase phase) {
    const PluginFieldCollection all{static_cast<std::int32_t>(fields.size()), fields.data()};
    return Plugin(creator_.createPlugin("rope", &all, phase)) != nullptr;
  }

  void check_fields() {
    const std::int32_t one = 1;
    const std::int32_t two = 2;
    const PluginField good{"contract", &one, PluginFieldType::kINT32, 1};
    accepted(creates({}, TensorRTPhase::kBUILD), "create from an empty collection");
    accepted(creates({good}, TensorRTPhase::kRUNTIME), "create from the field of an engine");
    const auto refuses = [&](const std::vector<PluginField>& fields, const char* what) {
      refused(!creates(fields, TensorRTPhase::kRUNTIME), what);
    };
    refuses({}, "an engine without the field");
    refuses({{"contract", &two, PluginFieldType::kINT32, 1}}, "a field of another value");
    refuses({{"contract", &one, PluginFieldType::kFLOAT32, 1}}, "a field of another type");
    refuses({{"contract", &one, PluginFieldType::kINT32, 2}}, "a field of another length");
    refuses({{"contract", nullptr, PluginFieldType::kINT32, 1}}, "a field without data");
    refuses({good, {"other", &one, PluginFieldType::kINT32, 1}}, "an unknown field");
    refuses({{nullptr, &one, PluginFieldType::kINT32, 1}}, "a field without a name");
  }

  void check_types() {
    const Capabilities able = capabilities_of(*plugin_);
    if (!report_.expect(able.core && able.build && able.runtime, "three capabilities")) return;
    report_.equal(2, able.build->getNbOutputs(), "number of outputs");
    const auto answers = [&](DataType q, DataType k, DataType pe) {
      const DataType in[] = {q, k, pe};
      DataType out[2] = {DataType::kINT8, DataType::kINT8};
      const bool done = able.build->getOutputDataTypes(out, 2, in, 3) == 0;
      return done && out[0] == q && out[1] == k;
    };
    for (const DataType type : kTypes) {
      accepted(answers(type, type, DataType::kFLOAT),
               "output types of type " + std::to_string(static_cast<int>(type)));
    }
    refused(!answers(DataType::kINT8, DataType::kINT8, DataType::kFLOAT), "int8 data");
    refused(!answers(DataType::kHALF, DataType::kBF16, DataType::kFLOAT), "k of another type");
    refused(!answers(DataType::kHALF, DataType::kHALF, DataType::kHALF), "float16 matrices");
    const DataType in[] = {DataType::kHALF, DataType::kHALF};
    DataType out[2];
    refused(able.build->getOutputDataTypes(out, 2, in, 2) != 0, "two inputs");
  }

  bool shapes_accepted(const Shapes& given) {
    nvinfer1::DimsExprs outputs[2]{};
    ShapeExpressions expressions(given);
    const auto* const in = expressions.inputs();
    const bool done = capabilities_of(*plugin_).build->getOutputShapes(
                          in, 3, nullptr, 0, outputs, 2, expressions.builder()) == 0;
    const auto same = [](const nvinfer1::DimsExprs& a, const nvinfer1::DimsExprs& b) {
      return a.nbDims == b.nbDims && std::equal(a.d, a.d + a.nbDims, b.d);
    };
    return done && same(outputs[0], in[0]) && same(outputs[1], in[1]);
  }

  // Shapes by what is wrong with them.
  static std::vector<std::pair<const char*, Shapes>> wrong_shapes() {
    const auto changed = [](auto change) {
      Shapes s = shapes(Sizes{});
      change(s);
      return s;
    };
    return {
        {"q without heads", changed([](Shapes& s) { s.q = dims({2, 6, 8}); })},
        {"pe of five axes", changed([](Shapes& s) { s.pe = dims({1, 6, 4, 2, 2}); })},
        {"an odd head size", changed([](Shapes& s) { s.q.d[3] = s.k.d[3] = 7; })},
        {"k of another batch", changed([](Shapes& s) { s.k.d[0] = 3; })},
        {"k of another length", changed([](Shapes& s) { s.k.d[2] = 5; })},
        {"k of another head size", changed([](Shapes& s) { s.k.d[3] = 6; })},
        {"pe of another batch", changed([](Shapes& s) { s.pe.d[0] = 3; })},
        {"pe of other heads", changed([](Shapes& s) { s.pe.d[1] = 3; })},
        {"pe of q's heads, not of k's", shapes({2, 4, 2, 6, 8, 1, 4})},
        {"pe of another length", changed([](Shapes& s) { s.pe.d[2] = 5; })},
        {"pe of other pairs", changed([](Shapes& s) { s.pe.d[3] = 3; })},
        {"matrices of three rows", changed([](Shapes& s) { s.pe.d[4] = 3; })},
        {"matrices of three columns", changed([](Shapes& s) { s.pe.d[5] = 3; })},
    };
  }

  static std::vector<std::pair<const char*, Shapes>> right_shapes() {
    return {
        {"one batch of matrices", shapes(Sizes{})},
        {"matrices of each batch", shapes({2, 4, 4, 6, 8, 2, 1})},
        {"matrices of each head", shapes({2, 4, 4, 6, 8, 1, 4})},
        {"grouped heads", shapes({2, 4, 2, 6, 8, 2, 1})},
        {"length zero", shapes({2, 4, 4, 0, 8, 1, 1})},
    };
  }

  void check_shapes() {
    for (const auto& [what, given] : right_shapes()) {
      accepted(shapes_accepted(given), std::string("output shapes: ") + what);
    }
    accepted(shapes_accepted(shapes({-1, 4, 2, -1, 8, -1, -1})), "output shapes: dynamic sizes");
    for (const auto& [what, given] : wrong_shapes()) {
      refused(!shapes_accepted(given), std::string("output shapes: ") + what);
    }
  }

  // Whether the contract has a tensor of a type and format at a position, given the type of q.
  static bool is_supported(int position, DataType q, DataType type, TensorFormat format) {
    const bool data =
        type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
    if (format != TensorFormat::kLINEAR) return false;
    if (position == 0) return data;
    return position == 2 ? type == DataType::kFLOAT : type == q;
  }

  void check_formats() {
    auto* const build = capabilities_of(*plugin_).build;
    int wrong = 0;
    int asked = 0;
    for (const DataType q : kTypes) {
      for (int position = 0; position < 5; ++position) {
        for (int type = 0; type < kTypeCount; ++type) {
          for (int format = 0; format < kFormatCount; ++format) {
            const Shapes s = shapes(Sizes{});
            DynamicTensors tensors = dynamic_tensors(s, s, s, q);
            tensors[position].desc.type = static_cast<DataType>(type);
            tensors[position].desc.format = static_cast<TensorFormat>(format);
            const bool got = build->supportsFormatCombination(position, tensors.data(), 3, 2);
            wrong += got != is_supported(position, q, static_cast<DataType>(type),
                                         static_cast<TensorFormat>(format));
            ++asked;
          }
        }
      }
    }
    report_.equal(0, wrong, "wrong answers to " + std::to_string(asked) + " format combinations");
    accepted(true, "formats are answered without a message");
  }

  bool configures(const Shapes& known, const Shapes& min, const Shapes& max) {
    const DynamicTensors tensors = dynamic_tensors(known, min, max, DataType::kHALF);
    return capabilities_of(*plugin_).build->configurePlugin(tensors.data(), 3, tensors.data() + 3,
                                                            2) == 0;
  }

  void check_configure() {
    const Shapes dynamic = shapes({-1, 4, 4, -1, 8, -1, -1});
    const Shapes least = shapes({1, 4, 4, 1, 8, 1, 1});
    const Shapes most = shapes({8, 4, 4, 4096, 8, 8, 1});
    accepted(configures(dynamic, least, most), "configure: a profile");
    for (const auto& [what, given] : wrong_shapes()) {
      refused(!configures(dynamic, given, most), std::string("configure, least: ") + what);
      refused(!configures(dynamic, least, given), std::string("configure, most: ") + what);
    }
    const DynamicTensors tensors = dynamic_tensors(dynamic, least, most, DataType::kHALF);
    const std::size_t bytes =
        capabilities_of(*plugin_).build->getWorkspaceSize(tensors.data(), 3, tensors.data() + 3, 2);
    report_.equal<std::size_t>(0, bytes, "workspace");
  }

  void check_clone() {
    Plugin copy(plugin_->clone());
    if (!report_.expect(copy && copy != plugin_, "clone")) return;
    plugin_ = std::move(copy);  // the first is gone: a copy must stand alone
    const Capabilities able = capabilities_of(*plugin_);
    report_.expect(std::strcmp(able.core->getPluginVersion(), creator_.getPluginVersion()) == 0,
                   "a clone has the creator's version");
    report_.equal(1, able.runtime->getFieldsToSerialize()->nbFields, "fields of a clone");
  }

  bool changes_shape(nvinfer1::IPluginV3& context, const Shapes& given, DataType type) {
    const StaticTensors tensors = static_tensors(given, type);
    return capabilities_of(context).runtime->onShapeChange(tensors.data(), 3, tensors.data() + 3,
                                                           2) == 0;
  }

  Plugin context_of(nvinfer1::IPluginV3& plugin) {
    return Plugin(capabilities_of(plugin).runtime->attachToContext(nullptr));
  }

  void check_runtime() {
    Plugin loaded = deserialized(creator_, *plugin_);
    plugin_.reset();
    if (!report_.expect(loaded != nullptr, "create from the serialised fields")) return;
    Plugin context = context_of(*loaded);
    if (!report_.expect(context && context != loaded, "attach to a context")) return;
    for (const auto& [what, given] : right_shapes()) {
      accepted(changes_shape(*context, given, DataType::kBF16), std::string("shape: ") + what);
    }
    for (const auto& [what, given] : wrong_shapes()) {
      refused(!changes_shape(*context, given, DataType::kBF16), std::string("shape: ") + what);
    }
    refused(!changes_shape(*context, shapes(Sizes{}), DataType::kINT8), "shape: int8 data");
    check_empty(*context);
    check_without_arrays(*context);
    check_threads(*loaded);
  }

  // No launch is needed, so this runs without a GPU.
  void check_empty(nvinfer1::IPluginV3& context) {
    for (const Sizes sizes : {Sizes{2, 4, 4, 0, 8, 1, 1}, Sizes{0, 4, 4, 6, 8, 1, 1}}) {
      const StaticTensors tensors = static_tensors(shapes(sizes), DataType::kHALF);
      const void* const inputs[3] = {};
      void* const outputs[2] = {};
      const int status = capabilities_of(context).runtime->enqueue(
          tensors.data(), tensors.data() + 3, inputs, outputs, nullptr, nullptr);
      accepted(status == 0, "enqueue of nothing");
    }
  }

  // TensorRT never does this; it must come back as an error, not as a crash.
  void check_without_arrays(nvinfer1::IPluginV3& context) {
    const StaticTensors tensors = static_tensors(shapes(Sizes{}), DataType::kHALF);
    const void* const inputs[3] = {};
    void* const outputs[2] = {};
    const int status = capabilities_of(context).runtime->enqueue(tensors.data(), tensors.data() + 3,
                                                                 inputs, outputs, nullptr, nullptr);
    report_.expect(status != 0 && journal_.take_errors().size() == 1,
                   "refused: enqueue without arrays", "without one message");
  }

  void check_threads(nvinfer1::IPluginV3& loaded) {
    constexpr int kThreads = 8;
    constexpr int kRounds = 200;
    std::array<int, kThreads> done{};
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        for (int round = 0; round < kRounds; ++round) {
          const Plugin context = context_of(loaded);
          const Sizes sizes{1 + i, 4, 4, 1 + round, 8, 1, 1};
          done[i] += context && changes_shape(*context, shapes(sizes), DataType::kHALF);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    bool all = true;
    for (const int count : done) all = all && count == kRounds;
    accepted(all, "contexts of several threads at once");
  }

  Journal journal_;
  Report& report_;
  Library library_;
  nvinfer1::IPluginCreatorV3One& creator_;
  Plugin plugin_;
};

}  // namespace

void drive(const std::string& library, Report& report) { Drive(library, report).run(); }

}  // namespace harness
