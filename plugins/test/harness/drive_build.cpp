#include <algorithm>

#include "interview.h"
#include "tensors.h"

namespace harness {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::TensorFormat;
using Build = nvinfer1::IPluginV3OneBuild;

constexpr DataType kTypes[] = {DataType::kFLOAT, DataType::kHALF, DataType::kBF16};

bool gives_types(const Build& build, DataType q, DataType k, DataType pe) {
  const DataType inputs[] = {q, k, pe};
  DataType outputs[] = {DataType::kINT8, DataType::kINT8};
  const bool done = build.getOutputDataTypes(outputs, 2, inputs, 3) == 0;
  return done && outputs[0] == q && outputs[1] == k;
}

void check_types(Interview& in, const Build& build) {
  in.report.equal(2, build.getNbOutputs(), "number of outputs");
  for (const DataType type : kTypes) {
    in.accepted(gives_types(build, type, type, DataType::kFLOAT),
                "output types of type " + std::to_string(static_cast<int>(type)));
  }
  const auto refused = [&](DataType q, DataType k, DataType pe, const char* what) {
    in.refused(!gives_types(build, q, k, pe), what);
  };
  refused(DataType::kINT8, DataType::kINT8, DataType::kFLOAT, "int8 data");
  refused(DataType::kHALF, DataType::kBF16, DataType::kFLOAT, "k of another type");
  refused(DataType::kHALF, DataType::kHALF, DataType::kHALF, "float16 matrices");
  const DataType inputs[] = {DataType::kHALF, DataType::kHALF};
  DataType outputs[2];
  in.refused(build.getOutputDataTypes(outputs, 2, inputs, 2) != 0, "two inputs");
}

bool same(const DimsExprs& a, const DimsExprs& b) {
  return a.nbDims == b.nbDims && std::equal(a.d, a.d + a.nbDims, b.d);
}

bool gives_shapes(Build& build, const Shapes& given) {
  ShapeExpressions expressions(given);
  const DimsExprs* const inputs = expressions.inputs();
  DimsExprs outputs[2]{};
  const bool done =
      build.getOutputShapes(inputs, 3, nullptr, 0, outputs, 2, expressions.builder()) == 0;
  return done && same(outputs[0], inputs[0]) && same(outputs[1], inputs[1]);
}

void check_shapes(Interview& in, Build& build) {
  for (const auto& [what, given] : right_shapes()) {
    in.accepted(gives_shapes(build, given), std::string("output shapes: ") + what);
  }
  in.accepted(gives_shapes(build, shapes({-1, 4, 2, -1, 8, -1, -1})),
              "output shapes: dynamic sizes");
  for (const auto& [what, given] : wrong_shapes()) {
    in.refused(!gives_shapes(build, given), std::string("output shapes: ") + what);
  }
}

// Whether the contract has a tensor of a type and format at a position, given the type of q.
bool is_supported(int position, DataType q, DataType type, TensorFormat format) {
  if (format != TensorFormat::kLINEAR) return false;
  if (position == 0) return std::find(kTypes, std::end(kTypes), type) != std::end(kTypes);
  return type == (position == 2 ? DataType::kFLOAT : q);
}

// How many types and formats at a position are answered wrongly.
int wrong_answers(Build& build, DataType q, int position) {
  const Shapes s = shapes(Sizes{});
  DynamicTensors tensors = dynamic_tensors(s, s, s, q);
  nvinfer1::PluginTensorDesc& tensor = tensors[position].desc;
  int wrong = 0;
  for (int type = 0; type < nvinfer1::EnumMax<DataType>(); ++type) {
    for (int format = 0; format < nvinfer1::EnumMax<TensorFormat>(); ++format) {
      tensor.type = static_cast<DataType>(type);
      tensor.format = static_cast<TensorFormat>(format);
      const bool expected = is_supported(position, q, tensor.type, tensor.format);
      wrong += build.supportsFormatCombination(position, tensors.data(), 3, 2) != expected;
    }
  }
  return wrong;
}

void check_formats(Interview& in, Build& build) {
  for (const DataType q : kTypes) {
    for (int position = 0; position < 5; ++position) {
      in.report.equal(0, wrong_answers(build, q, position),
                      "wrong answers to every type and format at " + std::to_string(position) +
                          ", q of type " + std::to_string(static_cast<int>(q)));
    }
  }
  in.accepted(true, "formats are answered without a message");
}

bool configures(Build& build, const Shapes& known, const Shapes& min, const Shapes& max) {
  const DynamicTensors tensors = dynamic_tensors(known, min, max, DataType::kHALF);
  return build.configurePlugin(tensors.data(), 3, tensors.data() + 3, 2) == 0;
}

void check_configure(Interview& in, Build& build) {
  const Shapes dynamic = shapes({-1, 4, 4, -1, 8, -1, -1});
  const Shapes least = shapes({1, 4, 4, 1, 8, 1, 1});
  const Shapes most = shapes({8, 4, 4, 4096, 8, 8, 1});
  in.accepted(configures(build, dynamic, least, most), "configure: a profile");
  for (const auto& [what, given] : wrong_shapes()) {
    in.refused(!configures(build, dynamic, given, most), std::string("configure, least: ") + what);
    in.refused(!configures(build, dynamic, least, given), std::string("configure, most: ") + what);
  }
  const DynamicTensors tensors = dynamic_tensors(dynamic, least, most, DataType::kHALF);
  in.report.equal<std::size_t>(0, build.getWorkspaceSize(tensors.data(), 3, tensors.data() + 3, 2),
                               "workspace");
}

}  // namespace

void drive_build(Interview& in, nvinfer1::IPluginV3& plugin) {
  const Capabilities able = capabilities_of(plugin);
  if (!in.report.expect(able.core && able.build && able.runtime, "three capabilities")) return;
  check_types(in, *able.build);
  check_shapes(in, *able.build);
  check_formats(in, *able.build);
  check_configure(in, *able.build);
}

}  // namespace harness
