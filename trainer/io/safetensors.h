// safetensors ↔ tensors. Reading maps the file and copies nothing; writing streams one tensor at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "trainer/core/named_tensors.h"
#include "trainer/io/mapped_file.h"
#include "trainer/io/safetensors_header.h"

namespace qkr {

// "BF16" and so on; Error for a type that the format lacks.
std::string safetensors_name(at::ScalarType type);

// One file. The header is checked whole by the constructor (safetensors_header.h).
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::string& file() const { return file_; }
  std::vector<std::string> names() const;  // in the order of their data
  bool contains(const std::string& name) const { return header_.index.count(name) != 0; }
  std::vector<int64_t> shape(const std::string& name) const { return entry(name).shape; }
  std::string dtype(const std::string& name) const { return entry(name).dtype->name; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  int64_t total_bytes() const;  // of the data

  // A CPU view of the file's bytes that keeps the mapping alive; READ ONLY: writing into it is a SIGSEGV, so copy from it.
  // (Data that lies unaligned in the file is copied.) Dtypes F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL; others are refused by
  // name, and so is a BOOL byte other than 0 and 1.
  at::Tensor tensor(const std::string& name) const;

  // An own copy, to be written to; what it read of the file is not kept resident.
  at::Tensor read(const std::string& name) const;

  // Tells the kernel that the pages of tensor(name) are not needed for now, so that a walk over a large file stays small in
  // memory. Views stay valid: their pages are read again when touched.
  void release(const std::string& name) const;

  // Of the tensor's first byte in the file.
  int64_t offset(const std::string& name) const { return static_cast<int64_t>(header_.data_offset + entry(name).begin); }

 private:
  const SafetensorsEntry& entry(const std::string& name) const;

  std::string file_;
  std::shared_ptr<const MappedFile> map_;
  SafetensorsHeader header_;
};

// The tensors of a model folder: model.safetensors, else the shards of model.safetensors.index.json; or of one file. Every
// shard is opened and every mapped name looked up by the constructor, so a folder that lies is refused at once.
class SafetensorsFolder {
 public:
  explicit SafetensorsFolder(const std::filesystem::path& path);

  const std::string& path() const { return path_; }
  const std::vector<std::string>& names() const { return names_; }  // by shard, then in the order of their data
  bool contains(const std::string& name) const { return place_.count(name) != 0; }
  std::vector<int64_t> shape(const std::string& name) const { return file_of(name).shape(name); }
  std::string dtype(const std::string& name) const { return file_of(name).dtype(name); }
  at::Tensor tensor(const std::string& name) const { return file_of(name).tensor(name); }
  int64_t total_bytes() const;
  // The file that holds the tensor; Error naming the folder and the tensor if none does.
  const SafetensorsFile& file_of(const std::string& name) const;

 private:
  void open_index(const std::filesystem::path& folder);
  void add_shard(const std::filesystem::path& file);

  std::string path_;
  std::vector<SafetensorsFile> files_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, size_t> place_;  // tensor → file
};

inline SafetensorsFolder open_tensors(const std::filesystem::path& path) { return SafetensorsFolder(path); }

using SafetensorsMetadata = std::map<std::string, std::string>;

// Writes atomically (atomic.h), byte for byte as Hugging Face's writer does: dtypes of larger alignment first, then by name; the
// header padded to 8 bytes with spaces. Tensors may be on any device, strided, or share storage (each is written in full).
// Returns the bytes of the file.
int64_t write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                          const SafetensorsMetadata& metadata = {});

// Into an existing folder without weights: model.safetensors if all fit into `max_shard_bytes`, else
// model-00001-of-0000N.safetensors and, last, model.safetensors.index.json. Filled in the order of `tensors`.
void write_safetensors_sharded(const std::filesystem::path& folder, const NamedTensors& tensors, int64_t max_shard_bytes,
                               const SafetensorsMetadata& metadata = {{"format", "pt"}});

// Bytes of data that the tensors take on disk (headers apart).
int64_t tensor_bytes(const NamedTensors& tensors);

}  // namespace qkr
