#include <set>

#include "trainer/core/text.h"
#include "trainer/io/json_text.h"
#include "trainer/io/safetensors.h"

namespace qkr {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// A shard lies in the index's own folder; an index that points elsewhere is not followed.
void check_shard_name(const std::string& index, const std::string& name) {
  const bool is_plain = !name.empty() && name != "." && name != ".." && name.find_first_of("/\\") == std::string::npos &&
                        name.find('\0') == std::string::npos;
  if (!is_plain) fail(index, ": weight_map must name files beside it, without folders, got ", quoted(name));
}

}  // namespace

SafetensorsFolder::SafetensorsFolder(const fs::path& path) : path_(path.string()) {
  std::error_code ignored;  // a file out of reach counts as there: opening it says what is wrong
  const auto is_there = [&](const fs::path& file) { return fs::exists(file, ignored) || ignored; };
  if (!fs::is_directory(path, ignored)) {
    add_shard(path);  // or its error, if it is nothing at all
  } else if (is_there(path / kSingle)) {  // both there: the single file wins, as in transformers
    add_shard(path / kSingle);
  } else if (is_there(path / kIndex)) {
    open_index(path);
  } else {
    fail(path_, ": must hold ", kSingle, " or ", kIndex, ", got neither");
  }
}

void SafetensorsFolder::add_shard(const fs::path& file) {
  files_.emplace_back(file);
  for (const std::string& name : files_.back().names()) {
    if (!place_.emplace(name, files_.size() - 1).second) {
      fail(files_.back().file(), ": tensor ", quoted(name, 200), " must be in one shard, got another in ", file_of(name).file());
    }
    names_.push_back(name);
  }
}

void SafetensorsFolder::open_index(const fs::path& folder) {
  const std::string index = (folder / kIndex).string();
  const auto json = read_json_file(index);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    fail(index, ": must have an object weight_map, got none");
  }
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : json["weight_map"].items()) {
    if (!shard.is_string()) fail(index, ": weight_map of ", quoted(tensor, 200), " must be a file name, got ", shard.type_name());
    check_shard_name(index, shard.get<std::string>());
    shards.insert(shard.get<std::string>());
  }
  for (const std::string& shard : shards) {
    std::error_code too_long;  // a name that no file can have is no such file
    if (!fs::exists(folder / shard, too_long)) fail(index, ": shard ", quoted(shard), " must lie beside it, got no such file");
    add_shard(folder / shard);
  }
  for (const auto& [tensor, shard] : json["weight_map"].items()) {
    const auto place = place_.find(tensor);
    const std::string file = (folder / shard.get<std::string>()).string();
    if (place == place_.end() || files_[place->second].file() != file) {
      fail(index, ": tensor ", quoted(tensor, 200), " must be in ", shard.get<std::string>(), " as weight_map says, got ",
           place == place_.end() ? "it nowhere" : "it in " + files_[place->second].file());
    }
  }
  for (const std::string& name : names_) {  // else index and shards come from two different saves
    if (!json["weight_map"].contains(name)) {
      fail(file_of(name).file(), ": tensor ", quoted(name, 200), " must be in the weight_map of ", kIndex, ", got no such entry");
    }
  }
}

const SafetensorsFile& SafetensorsFolder::file_of(const std::string& name) const {
  const auto place = place_.find(name);
  if (place == place_.end()) fail(path_, ": tensor ", quoted(name, 200), " must be there, got none of that name");
  return files_[place->second];
}

int64_t SafetensorsFolder::total_bytes() const {
  int64_t bytes = 0;
  for (const SafetensorsFile& file : files_) bytes += file.total_bytes();
  return bytes;
}

}  // namespace qkr
