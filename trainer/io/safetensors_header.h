// The header of a safetensors file, checked without Torch: u64 little-endian length, that many bytes of JSON, then the data.
// Rules: header at most 100,000,000 bytes, begins with '{', UTF-8, no name twice; shape x dtype = span; spans without gap or
// overlap from 0 to the end of the file. Format: github.com/huggingface/safetensors (README, "Format").
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace qkr {

inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

struct SafetensorsDtype {
  const char* name;  // "BF16"
  int bits;          // of one element
};

// Every dtype of the format, smallest alignment first: the order by which writers sort (from the end).
const std::vector<SafetensorsDtype>& safetensors_dtypes();
// Null for an unknown name.
const SafetensorsDtype* find_safetensors_dtype(std::string_view name);

struct SafetensorsEntry {
  std::string name;
  const SafetensorsDtype* dtype = nullptr;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  // bytes, relative to the data
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of their data
  std::unordered_map<std::string, size_t> index;
  std::map<std::string, std::string> metadata;
  uint64_t data_offset = 0;  // of the first byte of data in the file
};

// `bytes` is the whole file. Error: "<file>: <tensor or place> must <rule>, got <value>".
SafetensorsHeader parse_safetensors(std::string_view bytes, const std::string& file);

}  // namespace qkr
