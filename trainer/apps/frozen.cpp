#include "trainer/apps/frozen.h"

#include <algorithm>
#include <set>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/loop/trainable.h"
#include "trainer/model/weight_names.h"
#include "trainer/restore/candidates.h"
#include "trainer/restore/selection.h"

namespace qkr {
namespace {

bool turns_weights(const std::string& method) { return method == "procrustes" || method == "procrustes-head"; }

// One rotation for all of a layer's selected matrices would move a frozen one with the others.
void check_turned_together(const Prepared& p, const RestoreConfigSection& section) {
  const std::set<std::string> frozen(p.frozen.begin(), p.frozen.end());
  for (const MixerLayer& layer : mixer_layers(p.source.architecture)) {
    if (!selects_layer(layer, section)) continue;
    std::string kept, moved;
    for (const MixerTensor& tensor : selected_weights(layer, section)) {
      if (tensor.role != MixerRole::kWeight || tensor.part == MixerPart::kO) continue;
      (frozen.count(tensor.name) != 0 ? kept : moved) = tensor.name;
    }
    if (kept.empty() || moved.empty()) continue;
    fail("train.freeze: must keep all or none of what the restore ", section.method, " turns together, got ", kept, " without ", moved);
  }
}

// "model.embed_tokens.*, W_Q and W_K of the softmax layers"
std::string what_is_frozen(const TrainConfigSection& train) {
  std::vector<std::string> words = train.freeze;
  if (train.freeze_qk) words.push_back("W_Q and W_K of the softmax layers");
  return join(words);
}

// Of all that the restore may put back, and is frozen: it is there already.
std::string restore_line(const Prepared& p) {
  const std::set<std::string> frozen(p.frozen.begin(), p.frozen.end());
  std::set<std::string> selected, unmoved;
  for (const RestoreConfigSection& section : possible_sections(p.config.qk_restore)) {
    if (section.method == "none") continue;
    for (const MixerLayer& layer : mixer_layers(p.source.architecture)) {
      if (!selects_layer(layer, section)) continue;
      for (const MixerTensor& tensor : selected_tensors(layer, section)) {
        selected.insert(tensor.name);
        if (frozen.count(tensor.name) != 0) unmoved.insert(tensor.name);
      }
    }
  }
  if (unmoved.empty()) return "";
  return concat("restore  ", unmoved.size(), " of the ", selected.size(), " tensors that ", p.config.qk_restore.method, " puts back are frozen",
                unmoved.size() == selected.size() ? ": it will find nothing to put back\n" : " and stay as they are\n");
}

}  // namespace

void choose_frozen(Prepared& p) {
  p.frozen = frozen_weights(p.source.architecture, p.config.train);
  if (p.frozen.empty()) return;
  for (const RestoreConfigSection& section : possible_sections(p.config.qk_restore)) {
    if (turns_weights(section.method)) check_turned_together(p, section);
  }
}

std::string describe_frozen(const Prepared& p) {
  if (p.frozen.empty()) return "";
  const Architecture& a = p.source.architecture;
  const TrainedCount trained = count_trained(a, p.frozen);
  const bool head_too = a.tied && std::find(p.frozen.begin(), p.frozen.end(), kEmbeddingName) != p.frozen.end();
  std::string text = concat("freeze   ", group_digits(trained.weights), " of ", group_digits(parameter_count(a)), " weights are trained (", trained.tensors, " of ",
                            trained.tensors + static_cast<int64_t>(p.frozen.size()), " tensors); frozen: ", what_is_frozen(p.config.train));
  if (head_too) text += ", and with the embedding the LM head, which is tied to it";
  if (trained.first_layer > 0) {
    text += trained.first_layer < static_cast<int64_t>(a.layers.size()) ? concat("; no gradient below layer ", trained.first_layer) : "; no gradient in any layer";
  }
  return text + "\n" + restore_line(p);
}

}  // namespace qkr
