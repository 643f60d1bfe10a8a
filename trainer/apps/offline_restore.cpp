#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <map>
#include <nlohmann/json.hpp>

#include "trainer/apps/offline_compare.h"
#include "trainer/apps/offline_output.h"
#include "trainer/apps/process.h"
#include "trainer/core/digest.h"
#include "trainer/core/error.h"
#include "trainer/core/lap.h"
#include "trainer/core/parallel.h"
#include "trainer/core/text.h"
#include "trainer/io/folder_copy.h"
#include "trainer/restore/selection.h"

namespace qkr {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string_view bytes_of(const at::Tensor& dense) { return {static_cast<const char*>(dense.const_data_ptr()), dense.nbytes()}; }

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

  void write(OfflineOutput& out) const {
    for (const std::string& name : report.written) {
      if (digests[name]["tuned"] == digests[name]["restored"]) continue;  // its file may stay as it is
      const at::Tensor value = weights_.at(name).cpu().contiguous();
      out.write(pair_.tuned_files.file_of(name), name, bytes_of(value));
    }
  }

  LayerReport report;
  Json digests = Json::object();

 private:
  const ModelPair& pair_;
  NamedTensors weights_;
};

// SHA-256 of every file of weights, as sha256sum says it.
Json shard_digests(const ModelPair& pair, const OfflineOutput& out) {
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
  for_all(tasks.size(), [&](size_t i) { results[i] = file_sha256(tasks[i].file, [](int64_t) { check_not_stopped(); }); });
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

Json record_of(const OfflineResult& result, const OfflineOptions& options, const OfflineOutput& out, Json tensors) {
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
bool needs_threads(const std::string& method) { return method != "none" && !is_plain(method); }

// A layer of a method that copies: the base's bytes go from file to file.
Json write_plain(const ModelPair& pair, const PlainLayer& layer, OfflineOutput* out) {
  Json digests = Json::object();
  for (const std::string& name : layer.report.written) {
    const TensorComparison& seen = layer.written.at(name);
    digests[name] = {{"base", seen.base_sha256}, {"tuned", seen.tuned_sha256}, {"restored", seen.base_sha256}};
    if (out == nullptr || seen.base_sha256 == seen.tuned_sha256) continue;  // its file may stay as it is
    const at::Tensor value = pair.base_files.tensor(name);
    out->write(pair.tuned_files.file_of(name), name, bytes_of(value));
    pair.base_files.file_of(name).release(name);
  }
  return digests;
}

bool works_on(const MixerLayer& layer, const RestoreConfigSection& section) {
  return selects_layer(layer, section) && !selected_weights(layer, section).empty();
}

// What can be said of each layer without computing weights: how far it moved, if that is asked for, and all of a plain restore.
std::vector<std::optional<PlainLayer>> compare_layers(const ModelPair& pair, const OfflineOptions& options, OfflineResult& result) {
  std::vector<std::optional<PlainLayer>> plain(pair.layers.size());
  result.layers.resize(pair.layers.size());
  for_all(pair.layers.size(), [&](size_t i) {
    check_not_stopped();
    const MixerLayer& layer = pair.layers[i];
    result.layers[i].layer = layer.layer;
    result.layers[i].softmax = layer.softmax;
    if (result.has_moved) measure_moves(pair, result.layers[i]);
    if (is_plain(options.section.method) && works_on(layer, options.section)) plain[i] = plain_layer(pair, layer, options.section);
  });
  return plain;
}

// Fills the layers of `result`, writes to `out` if there is one, and returns the digests of what goes back.
Json restore_layers(const ModelPair& pair, const OfflineOptions& options, c10::Device device, Console& console, OfflineOutput* out,
                    OfflineResult& result) {
  console.status("comparing base and tuned");
  const std::vector<std::optional<PlainLayer>> plain = compare_layers(pair, options, result);
  Json tensors = Json::object();
  for (size_t i = 0; i < pair.layers.size(); ++i) {
    check_not_stopped();
    if (!works_on(pair.layers[i], options.section)) continue;
    console.status("layer " + std::to_string(i + 1) + " of " + std::to_string(pair.layers.size()));
    if (plain[i]) {
      result.layers[i].report = plain[i]->report;
      tensors.update(write_plain(pair, *plain[i], out));
      continue;
    }
    const LayerWork work(pair, pair.layers[i], options.section, device);
    result.layers[i].report = work.report;
    tensors.update(work.digests);
    if (out != nullptr) work.write(*out);
  }
  return tensors;
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
  Lap lap;
  const ModelPair pair = ModelPair::open(options);
  const c10::Device device = choose_device(options.device);
  check_selection(pair.layers, options.section, "the model");
  if (!needs_threads(options.section.method)) at::set_num_threads(1);
  std::optional<OfflineOutput> out;
  if (!options.dry_run) {
    check_out(options);
    out.emplace(options, console);
  }
  OfflineResult result;
  result.has_moved = options.dry_run || !options.html.empty();
  Json tensors = restore_layers(pair, options, device, console, out ? &*out : nullptr, result);
  if (out) {
    out->carry_the_rest();
    Json record = record_of(result, options, *out, std::move(tensors));
    if (options.digests == "files") {
      console.status("computing digests");
      record["file_sha256"] = shard_digests(pair, *out);
    }
    out->commit(record.dump(2) + "\n");
  }
  if (!options.html.empty()) write_file_atomically(options.html, offline_page(result, options));
  result.seconds = lap.seconds();
  return result;
}

}  // namespace qkr
