// One line a check, and whether all of them held.
#pragma once

#include <cstdio>
#include <string>

namespace harness {

class Report {
 public:
  // Print a check and return whether it held.
  bool expect(bool holds, const std::string& what, const std::string& why_not = "") {
    if (holds) {
      std::printf("ok   %s\n", what.c_str());
    } else {
      std::printf("FAIL %s: %s\n", what.c_str(), why_not.c_str());
    }
    ++(holds ? passed_ : failed_);
    return holds;
  }
  template <typename T>
  bool equal(const T& expected, const T& got, const std::string& what) {
    return expect(expected == got, what,
                  "expected " + std::to_string(expected) + ", got " + std::to_string(got));
  }
  void summarise() const { std::printf("%d passed, %d failed\n", passed_, failed_); }
  // A run without a check is no success.
  bool all_held() const { return failed_ == 0 && passed_ > 0; }

 private:
  int passed_ = 0;
  int failed_ = 0;
};

}  // namespace harness
