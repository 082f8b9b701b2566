#include <algorithm>
#include <utility>

#include "interview.h"
#include "tensors.h"

namespace harness {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::TensorFormat;
using Build = nvinfer1::IPluginV3OneBuild;

constexpr DataType kTypes[] = {DataType::kFLOAT, DataType::kHALF, DataType::kBF16};

// Types of q and k, of every coefficient, and of every scale.
bool gives_types(const Form& form, const Build& build, DataType q, DataType k, DataType table,
                 DataType scale) {
  const DataType data[] = {q, k};
  DataType inputs[] = {table, table, table, table, table, table};
  std::copy(data, data + form.rotated, inputs);
  std::fill(inputs + form.scales(), inputs + form.inputs(), scale);
  DataType outputs[] = {DataType::kINT8, DataType::kINT8};
  const bool done = build.getOutputDataTypes(outputs, form.outputs(), inputs, form.inputs()) == 0;
  return done && std::equal(data, data + form.rotated, outputs);
}

void check_types(Interview& in, const Build& build) {
  in.report.equal(in.form.outputs(), build.getNbOutputs(), "number of outputs");
  for (const DataType type : kTypes) {
    for (const DataType scale : {type, DataType::kFLOAT}) {
      in.accepted(gives_types(in.form, build, type, type, DataType::kFLOAT, scale),
                  "output types of type " + std::to_string(static_cast<int>(type)) +
                      ", scales of type " + std::to_string(static_cast<int>(scale)));
    }
  }
  const auto refused = [&](DataType q, DataType k, DataType pe, const char* what) {
    in.refused(!gives_types(in.form, build, q, k, pe, q), what);
  };
  if (in.form.normed) {
    in.refused(!gives_types(in.form, build, DataType::kHALF, DataType::kHALF, DataType::kFLOAT,
                            DataType::kBF16),
               "scales of another type");
  }
  refused(DataType::kINT8, DataType::kINT8, DataType::kFLOAT, "int8 data");
  if (in.form.rotated == 2) {
    refused(DataType::kHALF, DataType::kBF16, DataType::kFLOAT, "k of another type");
  }
  refused(DataType::kHALF, DataType::kHALF, DataType::kHALF, "float16 coefficients");
  const DataType inputs[] = {DataType::kHALF};
  DataType outputs[2];
  in.refused(build.getOutputDataTypes(outputs, in.form.outputs(), inputs, 1) != 0, "one input");
}

// Whether an output is what a form makes of an input: (B, H, L, D), however it came.
bool follows(const Form& form, const DimsExprs& output, DimsExprs input) {
  if (form.transposed && input.nbDims == 4) std::swap(input.d[1], input.d[2]);
  return output.nbDims == input.nbDims && std::equal(output.d, output.d + output.nbDims, input.d);
}

bool gives_shapes(const Form& form, Build& build, const Shapes& given) {
  ShapeExpressions expressions(form, given);
  const DimsExprs* const inputs = expressions.inputs();
  DimsExprs outputs[2]{};
  const bool done = build.getOutputShapes(inputs, form.inputs(), nullptr, 0, outputs,
                                          form.outputs(), expressions.builder()) == 0;
  return done && std::equal(outputs, outputs + form.outputs(), inputs,
                            [&](const DimsExprs& output, const DimsExprs& input) {
                              return follows(form, output, input);
                            });
}

void check_shapes(Interview& in, Build& build) {
  for (const auto& [what, given] : right_shapes(in.form)) {
    in.accepted(gives_shapes(in.form, build, given), std::string("output shapes: ") + what);
  }
  in.accepted(gives_shapes(in.form, build, shapes({-1, 4, 2, -1, 8, -1, -1})),
              "output shapes: dynamic sizes");
  for (const auto& [what, given] : wrong_shapes(in.form)) {
    in.refused(!gives_shapes(in.form, build, given), std::string("output shapes: ") + what);
  }
}

// Whether the contract has a tensor of a type and format at a position, given the type of q.
bool is_supported(const Form& form, int position, DataType q, DataType type, TensorFormat format) {
  if (format != TensorFormat::kLINEAR) return false;
  if (position == 0) return std::find(kTypes, std::end(kTypes), type) != std::end(kTypes);
  if (position >= form.scales() && position < form.inputs()) {
    return type == q || type == DataType::kFLOAT;
  }
  const bool is_coefficient = position >= form.rotated && position < form.scales();
  return type == (is_coefficient ? DataType::kFLOAT : q);
}

// How many types and formats at a position are answered wrongly.
int wrong_answers(const Form& form, Build& build, DataType q, int position) {
  const Shapes s = shapes(Sizes{});
  DynamicTensors tensors = dynamic_tensors(form, s, s, s, q);
  nvinfer1::PluginTensorDesc& tensor = tensors[position].desc;
  int wrong = 0;
  for (int type = 0; type < nvinfer1::EnumMax<DataType>(); ++type) {
    for (int format = 0; format < nvinfer1::EnumMax<TensorFormat>(); ++format) {
      tensor.type = static_cast<DataType>(type);
      tensor.format = static_cast<TensorFormat>(format);
      const bool expected = is_supported(form, position, q, tensor.type, tensor.format);
      wrong += build.supportsFormatCombination(position, tensors.data(), form.inputs(),
                                               form.outputs()) != expected;
    }
  }
  return wrong;
}

void check_formats(Interview& in, Build& build) {
  for (const DataType q : kTypes) {
    for (int position = 0; position < in.form.inputs() + in.form.outputs(); ++position) {
      in.report.equal(0, wrong_answers(in.form, build, q, position),
                      "wrong answers to every type and format at " + std::to_string(position) +
                          ", q of type " + std::to_string(static_cast<int>(q)));
    }
  }
  in.accepted(true, "formats are answered without a message");
}

bool configures(const Form& form, Build& build, const Shapes& known, const Shapes& min,
                const Shapes& max) {
  const DynamicTensors tensors = dynamic_tensors(form, known, min, max, DataType::kHALF);
  return build.configurePlugin(tensors.data(), form.inputs(), tensors.data() + form.inputs(),
                               form.outputs()) == 0;
}

void check_configure(Interview& in, Build& build) {
  const Shapes dynamic = shapes({-1, 4, 4, -1, 8, -1, -1});
  const Shapes least = shapes({1, 4, 4, 1, 8, 1, 1});
  const Shapes most = shapes({8, 4, 4, 4096, 8, 8, 1});
  in.accepted(configures(in.form, build, dynamic, least, most), "configure: a profile");
  for (const auto& [what, given] : wrong_shapes(in.form)) {
    in.refused(!configures(in.form, build, given, given, given), std::string("configure: ") + what);
  }
  // each input's bounds are its own
  Shapes other_least = least;
  Shapes other_most = most;
  other_least.q.d[0] = other_least.q.d[2] = 2;
  other_most.pe.d[0] = other_most.cos.d[0] = 9;
  other_most.k.d[2] = other_most.sin.d[1] = 5000;
  in.accepted(configures(in.form, build, dynamic, other_least, other_most),
              "configure: bounds that differ from tensor to tensor");
  const DynamicTensors tensors = dynamic_tensors(in.form, dynamic, least, most, DataType::kHALF);
  const std::size_t bytes = build.getWorkspaceSize(
      tensors.data(), in.form.inputs(), tensors.data() + in.form.inputs(), in.form.outputs());
  in.report.equal<std::size_t>(0, bytes, "workspace");
}

}  // namespace

void drive_build(Interview& in, nvinfer1::IPluginV3& plugin) {
  const Capabilities able = capabilities_of(plugin);
  if (!in.report.expect(able.core && able.build && able.runtime, "three capabilities")) return;
  check_types(in, *able.build);
  check_shapes(in, *able.build);
  check_formats(in, *able.build);
  check_configure(in, *able.build);
  const char* const timing = able.build->getTimingCacheID();
  const std::string expected = in.form.axis == -2   ? "axis -2"
                               : in.form.transposed ? "transposed"
                                                    : "";
  in.report.expect(timing && timing == expected,
                   "the timing cache serves it by shapes, formats and attributes");
}

}  // namespace harness
