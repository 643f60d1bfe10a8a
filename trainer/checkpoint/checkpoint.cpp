#include "trainer/checkpoint/checkpoint.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "trainer/core/shown_name.h"
#include "trainer/core/text.h"
#include "trainer/io/atomic.h"
#include "trainer/io/folder_copy.h"
#include "trainer/io/json_text.h"
#include "trainer/io/safetensors.h"

namespace qkr {
namespace fs = std::filesystem;
namespace {

constexpr const char* kWeights = "model.safetensors";
constexpr const char* kOptim = "optim.safetensors";
constexpr const char* kProgress = "progress.json";
constexpr int64_t kFormat = 2;  // 1: without digests
constexpr int64_t kSlackBytes = int64_t{4} << 20;  // headers, progress.json, the file system's own

// The files of a folder, by name.
std::map<std::string, int64_t> sizes_in(const fs::path& folder) {
  std::map<std::string, int64_t> sizes;
  for (const auto& entry : fs::directory_iterator(folder)) sizes[entry.path().filename().string()] = static_cast<int64_t>(entry.file_size());
  return sizes;
}

// By name, of files of a folder.
using Digests = std::map<std::string, std::string>;

// Of the files that are the keys of a map.
template <class ByName>
Digests digests_of(const fs::path& folder, const ByName& by_name) {
  std::vector<fs::path> files;
  for (const auto& [name, value] : by_name) files.push_back(folder / name);
  std::vector<std::string> found = files_digests(files);
  Digests digests;
  size_t i = 0;
  for (const auto& [name, value] : by_name) digests[name] = std::move(found[i++]);
  return digests;
}

nlohmann::ordered_json progress_json(const TrainState& state, const Identity& identity, const std::map<std::string, int64_t>& bytes,
                                     const Digests& digests) {
  nlohmann::ordered_json json;
  json["format"] = kFormat;
  json["step"] = state.step;
  json["next_sample"] = state.next_sample;
  json["tokens_seen"] = state.tokens_seen;
  json["tokens_trained"] = state.tokens_trained;
  json["identity"] = identity;
  json["bytes"] = bytes;
  json["digests"] = digests;
  return json;
}

int64_t count_in(const nlohmann::json& json, const char* key, const std::string& place) {
  const auto found = json.is_object() ? json.find(key) : json.end();
  // parsed as an unsigned number, it may be beyond int64
  if (found == json.end() || !found->is_number_unsigned() || found->get<uint64_t>() > INT64_MAX) {
    fail(place, ": ", key, " must be a non-negative integer, got ", found == json.end() ? "none" : quoted(found->dump()));
  }
  return found->get<int64_t>();
}

std::string digest_in(const nlohmann::json& json, const std::string& file, const std::string& place) {
  const auto digests = json.find("digests");
  if (digests == json.end() || !digests->is_object()) fail(place, ": digests must be an object of the files' digests, got none");
  const auto found = digests->find(file);
  if (found == digests->end() || !found->is_string()) {
    fail(place, ": digests: ", file, " must be a digest, got ", found == digests->end() ? "none" : quoted(found->dump()));
  }
  return found->get<std::string>();
}

// Of a file in this very folder, as a save can have written it.
bool is_file_name(const std::string& name) {
  const bool plain = name.size() <= 255 && name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
  return plain && shown_name(name, 255) == name;  // as it is
}

void check_size(const fs::path& file, int64_t want) {
  if (!fs::exists(file)) fail(file.string(), ": must exist in a checkpoint, got no such file");
  if (!fs::is_regular_file(file)) fail(file.string(), ": must be a file in a checkpoint, got something else");
  const auto bytes = static_cast<int64_t>(fs::file_size(file));
  if (bytes != want) fail(file.string(), ": must have ", want, " bytes as ", kProgress, " says, got ", bytes);
}

// Every live tensor is in the file and the other way round, in the same dtype and shape.
void check_agrees(const SafetensorsFile& file, const NamedTensors& live) {
  for (const auto& [name, tensor] : live) {
    const std::string place = concat(file.file(), ": tensor ", quoted(name, 200));
    if (!file.contains(name)) fail(place, " must be in the checkpoint, as this run has it, got none");
    const std::string dtype = safetensors_name(tensor.scalar_type());
    if (file.dtype(name) != dtype) fail(place, " must be ", dtype, " as in this run, got ", file.dtype(name));
    const std::vector<int64_t> shape = file.shape(name);
    if (tensor.sizes() != at::IntArrayRef(shape)) {
      fail(place, " must have shape ", tensor.sizes(), " as in this run, got ", at::IntArrayRef(shape));
    }
  }
  for (const std::string& name : file.names()) {
    if (!live.contains(name)) fail(file.file(), ": tensor ", quoted(name, 200), " must be one that this run has, got an unknown one");
  }
}

// The views of all tensors, so that what only tensor() refuses is refused before the first copy.
NamedTensors views_of(const SafetensorsFile& file) {
  NamedTensors views;
  for (const std::string& name : file.names()) views.set(name, file.tensor(name));
  return views;
}

void copy_into(const NamedTensors& live, const NamedTensors& saved) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : live) at::Tensor(tensor).copy_(saved.at(name));
}

}  // namespace

fs::path checkpoint_path(const fs::path& checkpoints_dir, int64_t step) {
  std::string digits = std::to_string(step);
  if (digits.size() < 6) digits.insert(0, 6 - digits.size(), '0');
  return checkpoints_dir / ("step-" + digits);
}

void save_checkpoint(const fs::path& folder, const TrainState& state, const Identity& identity, const WriteMore& more) {
  AtomicFolder partial(folder);
  need_free_bytes(folder, tensor_bytes(state.weights) + tensor_bytes(state.optim) + kSlackBytes, "a checkpoint",
                  ExitCode::kRunFailed);
  write_safetensors(partial.path() / kWeights, state.weights, {{"format", "pt"}});
  write_safetensors(partial.path() / kOptim, state.optim);
  if (more) more(partial.path());
  const std::map<std::string, int64_t> sizes = sizes_in(partial.path());
  const Digests digests = digests_of(partial.path(), sizes);
  write_file_atomically(partial.path() / kProgress, progress_json(state, identity, sizes, digests).dump(2) + "\n");
  partial.commit();
}

namespace {

struct Manifest {
  Progress progress;
  Digests digests;
};

Manifest read_manifest(const fs::path& folder) {
  const fs::path path = folder / kProgress;
  if (fs::is_directory(folder) && !fs::exists(path)) fail(folder.string(), ": must be a checkpoint, got no ", kProgress, " in it");
  const auto json = read_json_file(path);
  const std::string place = path.string();
  if (const int64_t format = count_in(json, "format", place); format != kFormat) {
    fail(place, ": format must be ", kFormat, ", got ", format, format < kFormat ? ", of an earlier build, without digests of its files" : "");
  }
  Manifest manifest;
  Progress& progress = manifest.progress;
  progress.step = count_in(json, "step", place);
  progress.next_sample = count_in(json, "next_sample", place);
  progress.tokens_seen = count_in(json, "tokens_seen", place);
  progress.tokens_trained = count_in(json, "tokens_trained", place);
  const auto identity = json.find("identity");
  if (identity == json.end() || !identity->is_object()) fail(place, ": identity must be an object of strings");
  for (const auto& [key, value] : identity->items()) {
    if (!value.is_string()) fail(place, ": identity.", shown_name(key), " must be a string, got ", value.type_name());
    progress.identity[key] = value.get<std::string>();
  }
  const auto bytes = json.find("bytes");
  if (bytes == json.end() || !bytes->is_object()) fail(place, ": bytes must be an object of file sizes, got none");
  for (const char* file : {kWeights, kOptim}) count_in(*bytes, file, place + ": bytes");
  for (const auto& [file, size] : bytes->items()) {
    if (!is_file_name(file)) fail(place, ": bytes must name files of the checkpoint's folder, got ", quoted(file));
    check_size(folder / file, count_in(*bytes, file.c_str(), place + ": bytes"));
    manifest.digests[file] = digest_in(json, file, place);
  }
  return manifest;
}

void check_digests(const fs::path& folder, const Manifest& manifest) {
  for (const auto& [name, got] : digests_of(folder, manifest.digests)) {
    const std::string& want = manifest.digests.at(name);
    if (got == want) continue;
    fail((folder / name).string(), ": must have the bytes that were saved, of digest ", shown_name(want.substr(0, 16)), " as ", kProgress, " says, got ",
         got.substr(0, 16));
  }
}

}  // namespace

Progress read_progress(const fs::path& folder) { return read_manifest(folder).progress; }

Progress load_checkpoint(const fs::path& folder, TrainState& state) {
  const Manifest manifest = read_manifest(folder);
  const Progress& progress = manifest.progress;
  check_digests(folder, manifest);
  const SafetensorsFile weights(folder / kWeights), optim(folder / kOptim);
  check_agrees(weights, state.weights);
  check_agrees(optim, state.optim);
  const NamedTensors saved_weights = views_of(weights), saved_optim = views_of(optim);

  copy_into(state.weights, saved_weights);
  copy_into(state.optim, saved_optim);
  state.step = progress.step;
  state.next_sample = progress.next_sample;
  state.tokens_seen = progress.tokens_seen;
  state.tokens_trained = progress.tokens_trained;
  return progress;
}

void require_identity(const fs::path& folder, const Identity& saved, const Identity& expected) {
  for (const auto& [key, value] : expected) {
    const auto found = saved.find(key);
    if (found == saved.end() ? value.empty() : found->second == value) continue;
    fail((folder / kProgress).string(), ": identity.", key, " must be ", quoted(value, 80), " as in this run, got ",
         found == saved.end() ? "none" : quoted(found->second, 80));
  }
}

}  // namespace qkr
