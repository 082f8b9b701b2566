#include "cases.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>

#include "library.h"

namespace harness {
namespace {

using nvinfer1::DataType;

DataType type_of(const std::string& name) {
  if (name == "float32") return DataType::kFLOAT;
  if (name == "float16") return DataType::kHALF;
  if (name == "bfloat16") return DataType::kBF16;
  throw Unusable("cases.txt: expected float32, float16 or bfloat16, got " + name);
}

Bytes read_array(const std::string& path, std::int64_t expected) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Unusable(path + ": cannot be read");
  Bytes bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (bytes.size() != static_cast<std::size_t>(expected)) {
    throw Unusable(path + ": expected " + std::to_string(expected) + " bytes, got " +
                   std::to_string(bytes.size()));
  }
  return bytes;
}

Case read_case(const std::string& folder, const std::string& line) {
  std::istringstream words(line);
  Case c;
  std::string type;
  Sizes& s = c.sizes;
  if (!(words >> c.name >> type >> s.batch >> s.q_heads >> s.k_heads >> s.length >> s.head_size >>
        s.pe_batch >> s.pe_heads >> c.offset)) {
    throw Unusable("cases.txt: expected NAME TYPE B Hq Hk L D Bp Hp OFFSET, got " + line);
  }
  c.type = type_of(type);
  const std::string path = folder + "/" + c.name;
  const auto row = static_cast<std::int64_t>(element_bytes(c.type)) * s.head_size;
  const std::int64_t q_bytes = s.batch * s.q_heads * s.length * row;
  const std::int64_t k_bytes = s.batch * s.k_heads * s.length * row;
  c.q = read_array(path + ".q", q_bytes);
  c.k = read_array(path + ".k", k_bytes);
  c.pe = read_array(path + ".pe", s.pe_batch * s.pe_heads * s.length * (s.head_size / 2) * 16);
  c.q_out = read_array(path + ".q_out", q_bytes);
  c.k_out = read_array(path + ".k_out", k_bytes);
  return c;
}

// The bits of one element, and whether they are a NaN.
std::uint32_t bits_at(const Bytes& bytes, std::size_t index, std::size_t size) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, bytes.data() + index * size, size);
  return bits;
}

bool is_nan(std::uint32_t bits, DataType type) {
  if (type == DataType::kFLOAT) return (bits & 0x7fffffffU) > 0x7f800000U;
  return (bits & 0x7fffU) > (type == DataType::kHALF ? 0x7c00U : 0x7f80U);
}

}  // namespace

std::size_t element_bytes(DataType type) { return type == DataType::kFLOAT ? 4 : 2; }

std::vector<Case> read_cases(const std::string& folder) {
  std::ifstream file(folder + "/cases.txt");
  if (!file) throw Unusable(folder + "/cases.txt: cannot be read");
  std::vector<Case> cases;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty()) cases.push_back(read_case(folder, line));
  }
  if (cases.empty()) throw Unusable(folder + "/cases.txt: no cases");
  return cases;
}

std::size_t differences(const Bytes& expected, const Bytes& got, DataType type) {
  const std::size_t size = element_bytes(type);
  std::size_t count = 0;
  for (std::size_t i = 0; i < expected.size() / size; ++i) {
    const std::uint32_t a = bits_at(expected, i, size);
    const std::uint32_t b = bits_at(got, i, size);
    count += a != b && !(is_nan(a, type) && is_nan(b, type));
  }
  return count;
}

}  // namespace harness
