#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <chrono>
#include <future>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "trainer/apps/offline.h"
#include "trainer/apps/process.h"
#include "trainer/core/digest.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/io/atomic.h"
#include "trainer/io/folder_copy.h"
#include "trainer/restore/selection.h"

namespace qkr {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kRecord = "restore.json";  // ours takes the place of one that the tuned folder has

void check_not_stopped() {
  if (stop_asked()) fail_run("stopped by a signal, nothing was written");
}

std::string_view bytes_of(const at::Tensor& dense) { return {static_cast<const char*>(dense.const_data_ptr()), dense.nbytes()}; }

// The output in the making: files of the tuned folder are copied, or linked, when it is known whether they change.
class OutputFolder {
 public:
  OutputFolder(const OfflineOptions& options, Console& console)
      : options_(options), console_(console), files_(list_folder(options.tuned)) {
    std::erase_if(files_, [](const FolderFile& file) { return file.name == kRecord; });
    int64_t needed = 0;
    for (const FolderFile& file : files_) {
      total_ += file.size;
      if (!options.link || file.name.extension() == ".safetensors") needed += file.allocated;  // at most
    }
    need_free_bytes(options.out, needed, "the restored model");
    folder_.emplace(options.out);
  }

  // Replaces the bytes of a tensor, if they differ; `tuned` is the file that holds it.
  void write(const SafetensorsFile& tuned, const std::string& name, const at::Tensor& value) {
    const fs::path file = fs::path(tuned.file()).filename();
    if (state_.count(file) == 0) copy(file);
    state_[file] = "restored";
    overwrite_bytes(folder_->path() / file, tuned.offset(name), bytes_of(value));
  }

  void carry_the_rest() {
    for (const FolderFile& file : files_) {
      if (state_.count(file.name) != 0) continue;
      check_not_stopped();
      const fs::path target = folder_->path() / file.name;
      fs::create_directories(target.parent_path());
      if (options_.link && link_file(fs::path(options_.tuned) / file.name, target)) {
        state_[file.name] = "linked";
        advance(file.size);
      } else {
        copy(file.name);
      }
    }
  }

  void commit(const Json& record) {
    write_file_atomically(folder_->path() / kRecord, record.dump(2) + "\n");
    console_.status("writing to the disk");
    check_not_stopped();
    folder_->commit();
  }

  const std::map<fs::path, std::string>& states() const { return state_; }
  fs::path path_of(const fs::path& file) const { return folder_->path() / file; }

 private:
  void copy(const fs::path& file) {
    copy_file_data(fs::path(options_.tuned) / file, folder_->path() / file, [this](int64_t bytes) { advance(bytes); });
    state_[file] = "copied";
  }

  void advance(int64_t bytes) {
    check_not_stopped();
    done_ += bytes;
    console_.status("copying " + progress_bar(done_, total_) + " " + human_bytes(done_) + " of " + human_bytes(total_));
  }

  const OfflineOptions& options_;
  Console& console_;
  std::vector<FolderFile> files_;
  std::map<fs::path, std::string> state_;
  std::optional<AtomicFolder> folder_;
  int64_t total_ = 0, done_ = 0;
};

// A part of a file's bytes at a time, so that neither norm needs a large fp64 copy.
double relative_change(const ModelPair& pair, const std::string& name) {
  constexpr int64_t kPiece = 1 << 20;
  const SafetensorsFile &base_file = pair.base_files.file_of(name), &tuned_file = pair.tuned_files.file_of(name);
  const at::Tensor base = base_file.tensor(name).flatten(), tuned = tuned_file.tensor(name).flatten();
  double moved = 0, norm = 0;
  for (int64_t begin = 0; begin < base.numel(); begin += kPiece) {
    const int64_t size = std::min(kPiece, base.numel() - begin);
    const at::Tensor from = base.narrow(0, begin, size).to(at::kDouble), to = tuned.narrow(0, begin, size).to(at::kDouble);
    moved += (to - from).square().sum().item<double>();
    norm += from.square().sum().item<double>();
  }
  base_file.release(name);
  tuned_file.release(name);
  return moved == 0 ? 0 : std::sqrt(moved / norm);
}

void measure_moves(const ModelPair& pair, OfflineLayer& layer) {
  const std::string start = "model.layers." + std::to_string(layer.layer) + ".";
  const std::array<const char*, kMovedParts.size()> modules = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                                               "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
  for (size_t i = 0; i < modules.size(); ++i) layer.moved[i] = relative_change(pair, start + modules[i] + ".weight");
}

// restore() on one layer, and the digests of what it touches.
class LayerWork {
 public:
  LayerWork(const ModelPair& pair, const MixerLayer& layer, const RestoreConfigSection& section, c10::Device device) : pair_(pair) {
    RestoreConfigSection one = section;
    one.layers = {"", {layer.layer}};
    std::vector<MixerLayer> wanted = layers_to_keep({layer}, one);
    NamedTensors base;
    for (const MixerTensor& tensor : wanted.at(0).tensors) {
      base.set(tensor.name, pair.base_files.file_of(tensor.name).read(tensor.name));
      weights_.set(tensor.name, pair.tuned_files.file_of(tensor.name).read(tensor.name).to(device));
    }
    const Snapshot snapshot(std::move(base), std::move(wanted));
    report = restore(weights_, snapshot, one).layers.at(0);
    for (const std::string& name : report.written) {
      const at::Tensor value = weights_.at(name).cpu().contiguous();
      const at::Tensor before = pair.tuned_files.tensor(name);
      digests[name] = {{"base", sha256_hex(bytes_of(snapshot.tensors().at(name)))}, {"tuned", sha256_hex(bytes_of(before.contiguous()))},
                       {"restored", sha256_hex(bytes_of(value))}};
      pair.tuned_files.file_of(name).release(name);
    }
  }

  void write(OutputFolder& out) const {
    for (const std::string& name : report.written) {
      if (digests[name]["tuned"] == digests[name]["restored"]) continue;  // its file may stay as it is
      out.write(pair_.tuned_files.file_of(name), name, weights_.at(name).cpu().contiguous());
    }
  }

  LayerReport report;
  Json digests = Json::object();

 private:
  const ModelPair& pair_;
  NamedTensors weights_;
};

// SHA-256 of every file of weights, as sha256sum says it; as many at a time as there are cores.
Json shard_digests(const ModelPair& pair, const OutputFolder& out) {
  struct Task {
    const char* folder;
    fs::path name, file;
  };
  std::vector<Task> tasks;
  const auto add = [&](const char* label, const SafetensorsFolder& folder, const auto& place) {
    std::map<fs::path, bool> seen;
    for (const std::string& name : folder.names()) {
      const fs::path file = folder.file_of(name).file();
      if (seen.emplace(file, true).second) tasks.push_back({label, file.filename(), place(file)});
    }
  };
  add("base", pair.base_files, [](const fs::path& file) { return file; });
  add("tuned", pair.tuned_files, [](const fs::path& file) { return file; });
  add("out", pair.tuned_files, [&](const fs::path& file) { return out.path_of(file.filename()); });
  std::vector<std::string> results(tasks.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < tasks.size(); i = next++) results[i] = file_sha256(tasks[i].file, [](int64_t) { check_not_stopped(); });
  };
  std::vector<std::future<void>> workers;
  for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) workers.push_back(std::async(std::launch::async, work));
  for (auto& worker : workers) worker.get();
  Json digests = Json::object();
  for (size_t i = 0; i < tasks.size(); ++i) digests[tasks[i].folder][tasks[i].name.string()] = results[i];
  return digests;
}

Json layers_json(const OfflineResult& result, const OfflineOptions& options) {
  RestoreReport report;
  report.method = options.section.method;
  report.layer_choice = options.section.layers;
  for (const OfflineLayer& layer : result.layers) {
    if (layer.report) report.layers.push_back(*layer.report);
  }
  return Json::parse(to_json(report)["layers"].dump());
}

Json record_of(const OfflineResult& result, const OfflineOptions& options, const OutputFolder& out, Json tensors) {
  const RestoreConfigSection& s = options.section;
  Json record = {{"program", options.version}, {"base", options.base}, {"tuned", options.tuned}, {"method", s.method}};
  if (s.method == "procrustes") record["anchor"] = s.anchor;
  record["layer_choice"] = s.layers.word.empty() ? Json(s.layers.list) : Json(s.layers.word);
  record["parts"] = selected_parts(s);
  record["biases"] = s.biases;
  record["qk_norm"] = s.qk_norm;
  record["layers"] = layers_json(result, options);
  for (const char* side : {"base", "tuned", "restored"}) {
    Sha256 all;
    for (const auto& [name, one] : tensors.items()) all.add(name + " " + one[side].get<std::string>() + "\n");
    record["sha256"][side] = all.hex();
  }
  record["tensors"] = std::move(tensors);
  for (const auto& [file, state] : out.states()) record["files"][file.string()] = state;
  return record;
}

// What copies and measures is bound by memory and gains nothing from threads that spin while they wait for each other.
bool needs_threads(const std::string& method) {
  return method != "none" && method != "plain" && method != "q" && method != "k" && method != "qkv";
}

// The output must not lie where its own inputs are listed from.
void check_out(const OfflineOptions& options) {
  const fs::path out = fs::weakly_canonical(options.out);
  for (const std::string& input : {options.base, options.tuned}) {
    const fs::path folder = fs::canonical(input);
    if (std::mismatch(folder.begin(), folder.end(), out.begin(), out.end()).first == folder.end()) {
      fail(options.out, ": --out must lie outside ", input, ", got a path inside it");
    }
  }
}

}  // namespace

OfflineResult restore_offline(const OfflineOptions& options, Console& console) {
  const auto start = std::chrono::steady_clock::now();
  const ModelPair pair = ModelPair::open(options);
  const c10::Device device = choose_device(options.device);
  check_selection(pair.layers, options.section, "the model");
  if (!needs_threads(options.section.method)) at::set_num_threads(1);
  std::optional<OutputFolder> out;
  if (!options.dry_run) {
    check_out(options);
    out.emplace(options, console);
  }
  OfflineResult result;
  result.has_moved = options.dry_run || !options.html.empty();
  Json tensors = Json::object();
  for (const MixerLayer& layer : pair.layers) {
    check_not_stopped();
    console.status("layer " + std::to_string(layer.layer + 1) + " of " + std::to_string(pair.layers.size()));
    OfflineLayer& row = result.layers.emplace_back();
    row.layer = layer.layer;
    row.softmax = layer.softmax;
    if (result.has_moved) measure_moves(pair, row);
    if (!selects_layer(layer, options.section) || selected_weights(layer, options.section).empty()) continue;
    const LayerWork work(pair, layer, options.section, device);
    row.report = work.report;
    tensors.update(work.digests);
    if (out) work.write(*out);
  }
  if (out) {
    out->carry_the_rest();
    Json record = record_of(result, options, *out, std::move(tensors));
    if (options.digests == "files") {
      console.status("computing digests");
      record["file_sha256"] = shard_digests(pair, *out);
    }
    out->commit(record);
  }
  if (!options.html.empty()) write_file_atomically(options.html, offline_page(result, options));
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace qkr
