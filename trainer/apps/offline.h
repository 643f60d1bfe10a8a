// A restore without a run: two model folders in, one out. Tensors pass through memory one layer at a time (where a method only
// copies, not even that), everything else goes from file to file in the kernel, meanwhile.
#pragma once

#include <array>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include <c10/core/Device.h>

#include "trainer/config/run_config.h"
#include "trainer/core/mixer_layer.h"
#include "trainer/hooks/console.h"
#include "trainer/io/safetensors.h"
#include "trainer/model/folder.h"
#include "trainer/restore/restore.h"

namespace qkr {

struct OfflineOptions {
  std::string base, tuned, out, html, device = "auto", digests = "tensors";
  std::vector<std::string> ignore_config;  // keys in which the two config.json may differ
  bool dry_run = false, link = false;
  std::string version;  // for restore.json
  RestoreConfigSection section;
};

// Both folders, opened and found to hold the same mixers and MLPs under the same names.
struct ModelPair {
  ModelSource base, tuned;
  SafetensorsFolder base_files, tuned_files;
  std::vector<MixerLayer> layers;

  // Error naming the first config.json key or tensor that differs. Embeddings, heads and final norms may: they are not touched.
  static ModelPair open(const OfflineOptions& options);
};

// What fine-tuning moved: ||W_tuned - W_base|| / ||W_base||, Frobenius norms in fp64.
inline constexpr std::array<const char*, 7> kMovedParts = {"Q", "K", "V", "O", "gate", "up", "down"};
struct OfflineLayer {
  int64_t layer = 0;
  bool softmax = true;
  std::array<double, kMovedParts.size()> moved{};
  std::optional<LayerReport> report;  // of a layer that the method works on
};

struct OfflineResult {
  std::vector<OfflineLayer> layers;  // all of the model; `moved` is measured for --dry-run and --html
  bool has_moved = false;
  double seconds = 0;
};

// Computes; writes nothing but options.out (atomically; none if dry_run) and options.html.
OfflineResult restore_offline(const OfflineOptions& options, Console& console);

// One line a layer.
std::string offline_table(const OfflineResult& result);
// The same as a page of its own: no script, nothing to load.
std::string offline_page(const OfflineResult& result, const OfflineOptions& options);

}  // namespace qkr
