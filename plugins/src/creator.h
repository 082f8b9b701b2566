#pragma once

#include <NvInferRuntime.h>

#include <array>

#include "forms.h"

namespace ropeexport {

// Creates the plugin of one form.
class RopeCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit RopeCreator(const Form& form) noexcept : form_(form) {}

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override;
  const char* getPluginName() const noexcept override;
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;

 private:
  const Form& form_;
};

// The creators of this library, one a form.
using Creators = std::array<nvinfer1::IPluginCreatorInterface*, kFormCount>;
const Creators& creators() noexcept;

}  // namespace ropeexport
