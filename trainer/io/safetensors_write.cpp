#include <ATen/ATen.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "trainer/core/text.h"
#include "trainer/io/atomic.h"
#include "trainer/io/safetensors.h"

namespace qkr {
namespace fs = std::filesystem;
namespace {

// One tensor to be written, and where it stands in the order of dtypes.
struct Item {
  const NamedTensors::Entry* entry;
  const SafetensorsDtype* dtype;
};

std::vector<Item> sorted_items(const fs::path& path, const NamedTensors& tensors) {
  std::vector<Item> items;
  for (const NamedTensors::Entry& entry : tensors) {
    const std::string place = concat(path.string(), ": tensor ", quoted(entry.first, 200));
    if (!is_utf8(entry.first) || entry.first == "__metadata__") {
      fail(place, " must have a name that is UTF-8 and not __metadata__");
    }
    if (!entry.second.defined()) fail(place, " must be defined");
    if (entry.second.layout() != at::kStrided) fail(place, " must be dense, got layout ", entry.second.layout());
    items.push_back({&entry, find_safetensors_dtype(safetensors_name(entry.second.scalar_type()))});
  }
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.entry->first < b.entry->first;  // pointers into one table
  });
  return items;
}

// Length and JSON, padded so that the data begins at a multiple of 8.
std::string header_of(const std::vector<Item>& items, const SafetensorsMetadata& metadata, const fs::path& path) {
  nlohmann::ordered_json::object_t header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t at = 0;
  for (const Item& item : items) {
    const at::Tensor& tensor = item.entry->second;
    const uint64_t end = at + static_cast<uint64_t>(tensor.nbytes());
    nlohmann::ordered_json info;
    info["dtype"] = item.dtype->name;
    info["shape"] = tensor.sizes().vec();
    info["data_offsets"] = {at, end};
    header.emplace_back(item.entry->first, std::move(info));  // the names differ already; operator[] would search each time
    at = end;
  }
  std::string text = nlohmann::ordered_json(std::move(header)).dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kMaxSafetensorsHeader) {
    fail(path.string(), ": header must be at most ", kMaxSafetensorsHeader, " bytes, got ", text.size());
  }
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(text.size() >> (8 * i) & 0xFF);
  return bytes + text;
}

std::string shard_name(size_t shard, size_t count) {
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", shard + 1, count);
  return name;
}

// Greedy in the given order; a tensor larger than a shard has one to itself (huggingface_hub's split).
std::vector<NamedTensors> split(const NamedTensors& tensors, int64_t max_shard_bytes) {
  std::vector<NamedTensors> shards;
  NamedTensors current;
  int64_t current_bytes = 0;
  for (const auto& [name, tensor] : tensors) {
    const int64_t bytes = static_cast<int64_t>(tensor.nbytes());
    if (bytes > max_shard_bytes) {
      shards.emplace_back().set(name, tensor);
      continue;
    }
    if (current_bytes + bytes > max_shard_bytes) {
      shards.push_back(std::move(current));
      current = NamedTensors();
      current_bytes = 0;
    }
    current.set(name, tensor);
    current_bytes += bytes;
  }
  if (!current.empty() || shards.empty()) shards.push_back(std::move(current));
  return shards;
}

}  // namespace

int64_t tensor_bytes(const NamedTensors& tensors) {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : tensors) bytes += static_cast<int64_t>(tensor.nbytes());
  return bytes;
}

int64_t write_safetensors(const fs::path& path, const NamedTensors& tensors, const SafetensorsMetadata& metadata) {
  const std::vector<Item> items = sorted_items(path, tensors);
  const std::string header = header_of(items, metadata, path);
  const int64_t bytes = static_cast<int64_t>(header.size()) + tensor_bytes(tensors);
  AtomicFile file(path);  // makes room: it removes the leftover of a killed process
  need_free_bytes(path, bytes, "its tensors", ExitCode::kRunFailed);
  file.write(header);
  for (const Item& item : items) {
    const at::Tensor dense = item.entry->second.detach().to(at::kCPU).contiguous();  // no copy of a dense CPU tensor
    file.write({static_cast<const char*>(dense.const_data_ptr()), dense.nbytes()});
  }
  file.commit();
  return bytes;
}

void write_safetensors_sharded(const fs::path& folder, const NamedTensors& tensors, int64_t max_shard_bytes,
                               const SafetensorsMetadata& metadata) {
  const fs::path single = folder / "model.safetensors", index = folder / "model.safetensors.index.json";
  for (const fs::path& old : {single, index}) {
    if (fs::exists(old)) fail(old.string(), ": must not exist yet, got a file (of an earlier save?)");
  }
  const std::vector<NamedTensors> shards = split(tensors, max_shard_bytes);
  if (shards.size() == 1) {
    write_safetensors(single, tensors, metadata);
    return;
  }
  nlohmann::json weight_map = nlohmann::json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(i, shards.size());
    write_safetensors(folder / name, shards[i], metadata);
    for (const auto& [tensor, value] : shards[i]) weight_map[tensor] = name;
  }
  const nlohmann::json json = {{"metadata", {{"total_size", tensor_bytes(tensors)}}}, {"weight_map", weight_map}};
  write_file_atomically(index, json.dump(2) + "\n");
}

}  // namespace qkr
