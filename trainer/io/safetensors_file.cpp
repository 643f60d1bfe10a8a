#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "trainer/core/text.h"
#include "trainer/io/safetensors.h"

namespace qkr {
namespace {

constexpr const char* kReadable = "F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL";

// The dtypes that are both Torch's and the format's.
struct TensorDtype {
  at::ScalarType type;
  const char* name;
};

const std::vector<TensorDtype>& tensor_dtypes() {
  static const std::vector<TensorDtype> kDtypes = {
      {at::kDouble, "F64"}, {at::kFloat, "F32"}, {at::kHalf, "F16"}, {at::kBFloat16, "BF16"}, {at::kLong, "I64"},
      {at::kInt, "I32"},    {at::kShort, "I16"}, {at::kChar, "I8"},  {at::kByte, "U8"},       {at::kBool, "BOOL"}};
  return kDtypes;
}

}  // namespace

std::string safetensors_name(at::ScalarType type) {
  for (const TensorDtype& dtype : tensor_dtypes()) {
    if (dtype.type == type) return dtype.name;
  }
  fail("safetensors: dtype must be ", kReadable, ", got ", at::toString(type));
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : file_(path.string()), map_(std::make_shared<const MappedFile>(path)), header_(parse_safetensors(map_->bytes(), file_)) {}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  names.reserve(header_.entries.size());
  for (const SafetensorsEntry& entry : header_.entries) names.push_back(entry.name);
  return names;
}

int64_t SafetensorsFile::total_bytes() const { return static_cast<int64_t>(map_->size() - header_.data_offset); }

const SafetensorsEntry& SafetensorsFile::entry(const std::string& name) const {
  const auto place = header_.index.find(name);
  if (place == header_.index.end()) fail(file_, ": tensor ", quoted(name, 200), " must be in the file, got none of that name");
  return header_.entries[place->second];
}

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const SafetensorsEntry& wanted = entry(name);
  const auto& known = tensor_dtypes();
  const std::string_view dtype = wanted.dtype->name;
  const auto found = std::find_if(known.begin(), known.end(), [&](const TensorDtype& d) { return d.name == dtype; });
  if (found == known.end()) {
    fail(file_, ": tensor ", quoted(name, 200), " must be ", kReadable, ", got ", dtype);
  }
  const auto options = at::TensorOptions().dtype(found->type);
  const size_t bytes = wanted.end - wanted.begin;
  if (bytes == 0) return at::empty(wanted.shape, options);

  const char* data = map_->data() + header_.data_offset + wanted.begin;
  if (found->type == at::kBool) {  // a bool of another value is undefined behaviour in everything that reads it
    const auto bad = std::find_if(data, data + bytes, [](char c) { return c != 0 && c != 1; });
    if (bad != data + bytes) {
      const unsigned value = static_cast<unsigned char>(*bad);
      fail(file_, ": tensor ", quoted(name, 200), " must hold 0 and 1 alone, got ", value, " at byte ", bad - data);
    }
  }
  if (reinterpret_cast<uintptr_t>(data) % c10::elementSize(found->type) != 0) {
    at::Tensor copy = at::empty(wanted.shape, options);
    std::memcpy(copy.data_ptr(), data, bytes);
    return copy;
  }
  return at::from_blob(const_cast<char*>(data), wanted.shape, [map = map_](void*) {}, options);
}

at::Tensor SafetensorsFile::read(const std::string& name) const {
  at::Tensor copy = tensor(name).clone();
  release(name);
  return copy;
}

void SafetensorsFile::release(const std::string& name) const {
  const SafetensorsEntry& wanted = entry(name);
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t begin = (header_.data_offset + wanted.begin) / page * page, end = header_.data_offset + wanted.end;
  // The mapping is private and never written, so dropping a page loses nothing.
  if (end > begin) ::madvise(const_cast<char*>(map_->data()) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace qkr
