// ropeexport_unknown LIBRARY   use a plugin library beside a TensorRT of an unknown version
//
// Exit codes: 0 it was loaded and refused a plugin, 1 it did not refuse, 3 it cannot be used.
#include <cstdio>
#include <exception>

#include "library.h"

int main(int argc, char** argv) {
  if (argc != 2) return 3;
  try {
    harness::Journal journal;
    const harness::Library library(argv[1], journal);
    // an engine without the field that every engine has
    const nvinfer1::PluginFieldCollection none{0, nullptr};
    const harness::Plugin plugin(
        library.creator("ApplyRope")
            .createPlugin("rope", &none, nvinfer1::TensorRTPhase::kRUNTIME));
    return plugin || !journal.take_errors().empty() ? 1 : 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 3;
  }
}
