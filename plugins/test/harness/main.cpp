// plugin_harness LIBRARY                    drive the library's interface; no GPU
// plugin_harness LIBRARY --enqueue FOLDER   run it on the GPU, compare with the cases in FOLDER
//
// Exit codes: 0 every check held, 1 one did not, 2 usage, 3 the library or a GPU is missing.
#include <cstdio>
#include <exception>
#include <string>

#include "drive.h"
#include "enqueue.h"

namespace {

enum ExitCode { kHeld = 0, kFailed = 1, kUsage = 2, kMissing = 3 };

int finish(const harness::Report& report) {
  report.summarise();
  return report.all_held() ? kHeld : kFailed;
}

int run(int argc, char** argv) {
  harness::Report report;
  if (argc == 2) {
    harness::drive(argv[1], report);
    return finish(report);
  }
  if (argc == 4 && std::string(argv[2]) == "--enqueue") {
    harness::enqueue_cases(argv[1], argv[3], report);
    return finish(report);
  }
  std::fprintf(stderr, "usage: %s LIBRARY [--enqueue FOLDER]\n", argv[0]);
  return kUsage;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const harness::Unusable& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return kMissing;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return kFailed;
  }
}
