// Options as they come from another language: a JSON object with the keys of a configuration's section, under the same rules.
#pragma once

#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/core/error.h"
#include "trainer/core/mixer_layer.h"

namespace qkr {

// {"method": "procrustes", "anchor": 0.01, "layers": [3, 7]} as the section qk_restore; {"lengths": [4096]} as the section probe.
// Absent keys have the configuration's defaults. Throws Error, with a line "<key>: must ..." for each wrong one.
RestoreConfigSection restore_options(const std::string& json);
ProbeConfigSection probe_options(const std::string& json);

// An error text of the trainer in the words of those who set options: without "--set qk_restore.x=1: " and "qk_restore.".
std::string in_option_words(const std::string& text);

// Layers of a model as a JSON list: [{"layer": 3, "softmax": true, "heads": 8, "kv_heads": 2, "head_dim": 64, "rope": true,
// "qk_activation": false, "tensors": [{"part": "q", "role": "weight", "name": "..."}]}]. part: q, k, v, o, gate; role: weight, bias, gain.
std::string layers_to_json(const std::vector<MixerLayer>& layers);
std::vector<MixerLayer> layers_from_json(const std::string& json);  // Error: a key is missing, of another type, or unknown

}  // namespace qkr
