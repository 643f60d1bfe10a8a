// Which tensors of which layers a configuration restores.
#pragma once

#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/core/mixer_layer.h"

namespace qkr {

// Whether section.layers holds this layer: by its type in config.json, or by its number.
bool selects_layer(const MixerLayer& layer, const RestoreConfigSection& section);

// The parts that the method works on: section.parts, or what a control (q, k, qkv) names. "qkv" only comes from the control.
std::string selected_parts(const RestoreConfigSection& section);

// The tensors of a selected layer that go back, in the layer's order: weights of the parts, their biases (section.biases), the
// norms' gains (of q and k with section.qk_norm; all of them in the parts norms and mixer).
std::vector<MixerTensor> selected_tensors(const MixerLayer& layer, const RestoreConfigSection& section);

// What the parts are named after, without the biases and gains that go along: weights; the gains for the parts norms.
std::vector<MixerTensor> selected_weights(const MixerLayer& layer, const RestoreConfigSection& section);

// Why the selection cannot be had, "" if it can: a numbered layer does not exist, a selected layer lacks a part that the selection
// names, or no layer is selected. `layers` describes the whole model, or what a snapshot holds of it; `what` is what the message
// calls it. The method must not be auto.
std::string selection_refusal(const std::vector<MixerLayer>& layers, const RestoreConfigSection& section, const std::string& what);

// Throws Error (bad input) with that reason. Of auto's candidates one other than none must be left.
void check_selection(const std::vector<MixerLayer>& layers, const RestoreConfigSection& section, const std::string& what);

// What to keep of a model: q and k of its softmax layers whatever the method, and all that the selection, or a candidate's, needs.
// Throws as check_selection does.
std::vector<MixerLayer> layers_to_keep(const std::vector<MixerLayer>& layers, const RestoreConfigSection& section);

// `layers` without the tensors that are not among `names`: what a stored snapshot holds. Throws Error (bad input) naming
// `file` and the first tensor that the selection needs and that is not there.
std::vector<MixerLayer> layers_stored(const std::vector<MixerLayer>& layers, const RestoreConfigSection& section,
                                      const std::vector<std::string>& names, const std::string& file);

}  // namespace qkr
