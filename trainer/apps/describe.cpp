#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <sys/sysinfo.h>

#include <map>

#include "trainer/apps/frozen.h"
#include "trainer/apps/session.h"
#include "trainer/core/text.h"
#include "trainer/hooks/script_hooks.h"
#include "trainer/loop/run.h"
#include "trainer/loop/trainable.h"
#include "trainer/model/kernels.h"
#include "trainer/restore/restore.h"

namespace qkr {
namespace {

std::string numbers(const std::vector<int64_t>& values) {
  std::vector<std::string> words;
  for (const int64_t value : values) words.push_back(std::to_string(value));
  return join(words, " ");
}

std::string model_lines(const Prepared& p) {
  const Architecture& a = p.source.architecture;
  std::string text = "model    " + p.source.folder + ": " + family_name(a.family) + ", " + group_digits(parameter_count(a)) +
                     " parameters, " + std::to_string(a.layers.size()) + " layers, " + p.config.model.dtype + " on " + p.device.str() +
                     (p.config.model.init == "random" ? ", random weights" : "") + "\n";
  std::map<std::string, std::vector<int64_t>> layers_by_kernel;
  for (size_t i = 0; i < a.layers.size(); ++i) {
    const std::string mixer = a.layers[i].mixer == MixerKind::kLightning ? "lightning" : "softmax";
    const std::string kernel = mixer_kernel(a, i, p.device, model_dtype(p.config)).name;
    layers_by_kernel[mixer + '\n' + kernel].push_back(static_cast<int64_t>(i));
  }
  for (const auto& [key, layers] : layers_by_kernel) {
    const size_t split = key.find('\n');
    text += "kernels  " + key.substr(0, split) + " layers " + numbers(layers) + ": " + key.substr(split + 1) + "\n";
  }
  if (a.logits_scaling.kind != LogitsScaling::Kind::kNone) {
    text += "model    attn_logits_scaling is on, in training too (model.attn_logits_scaling: null turns it off)\n";
  }
  return text;
}

std::string data_lines(const Prepared& p) {
  const DataReport& r = p.dataset.report();
  int64_t row_tokens = 0;
  for (const Row& row : p.rows) {
    for (const int64_t sample : row) row_tokens += p.dataset.samples()[sample].size();
  }
  const double fill = 100.0 * static_cast<double>(row_tokens) / static_cast<double>(p.rows.size() * p.config.data.max_length);
  std::string text = "data     " + group_digits(r.rows_kept) + " of " + group_digits(r.rows_read) + " samples, " + group_digits(r.tokens) +
                     " tokens, " + group_digits(r.trained_tokens) + " trained (" +
                     fixed(100.0 * static_cast<double>(r.trained_tokens) / static_cast<double>(std::max<int64_t>(r.tokens, 1)), 1) +
                     " %), longest " + (r.longest_goes_on ? "more than " : "") + group_digits(r.longest) + "\n";
  text += "data     " + group_digits(static_cast<int64_t>(p.rows.size())) + " rows of at most " + group_digits(p.config.data.max_length) +
          " tokens, " + fixed(fill, 1) + " % full" + (p.config.data.packing ? "" : " (packing is off)") + "\n";
  if (!p.held_out.empty()) text += "data     " + group_digits(static_cast<int64_t>(p.held_out.size())) + " samples are not trained on: auto's candidates are scored on them\n";
  if (r.over_length_dropped + r.over_length_truncated + r.no_label_dropped > 0) {
    text += "data     over length: " + std::to_string(r.over_length_dropped) + " dropped, " + std::to_string(r.over_length_truncated) +
            " truncated; without a trained token: " + std::to_string(r.no_label_dropped) + " dropped\n";
    for (const std::string& example : r.examples) text += "         " + example + "\n";
  }
  return text;
}

// Weights, gradients, moments, master: what a parameter costs, and what the device has.
std::string memory_line(const Prepared& p) {
  const int64_t parameters = parameter_count(p.source.architecture), trained = count_trained(p.source.architecture, p.frozen).weights;
  const bool narrow = p.config.model.dtype == "bfloat16";
  const int64_t each = narrow ? 14 : 16, frozen_each = narrow ? 2 : 4;
  const int64_t needed = trained * each + (parameters - trained) * frozen_each;
  int64_t total = 0;
  if (p.device.is_cuda()) {
    total = static_cast<int64_t>(at::getDeviceAllocator(p.device.type())->getMemoryInfo(0).second);
  } else {
    struct sysinfo info {};
    sysinfo(&info);
    total = static_cast<int64_t>(info.totalram) * info.mem_unit;
  }
  return "memory   " + human_bytes(needed) + " for weights, gradients and optimizer (" + std::to_string(each) + " bytes a parameter" +
         (trained < parameters ? ", " + std::to_string(frozen_each) + " a frozen one" : "") + "), activations apart; " + human_bytes(total) +
         " on " + p.device.str() + (needed > total ? "  <- will not fit" : "") + "\n";
}

std::string probe_line(const Prepared& p) {
  if (p.items.empty()) return "probe    none (probe.lengths is empty)\n";
  const ProbeConfigSection& c = p.config.probe;
  std::string text = "probe    " + join(c.tasks, " ") + " at " + numbers(c.lengths) + " tokens, " + (c.samples.is_auto() ? "auto" : std::to_string(c.samples.number)) +
                     " prompts a cell, haystack ";
  std::string haystack = "noise";
  for (const NeedleItem& item : p.items) {
    if (item.task != NeedleTask::kSingle1) haystack = item.haystack + " sha256 " + item.haystack_sha256.substr(0, 12);
  }
  text += haystack + ", at " + join(c.at, " ") + "\n";
  const int64_t limit = p.source.architecture.max_position;
  for (const int64_t length : c.lengths) {
    if (limit > 0 && length > limit) {
      text += "probe    " + std::to_string(length) + " tokens are more than config.json's max_position_embeddings " + std::to_string(limit) + "\n";
    }
  }
  return text;
}

std::string dial(double value) { return scientific(value, 1); }

// The method with its own dials, then what differs from the default.
std::string restore_line(const RestoreConfigSection& r) {
  const RestoreConfigSection plain;
  std::string text = "restore  " + r.method;
  if (r.method == "none") return text + "\n";
  if (r.method == "auto") {
    text += ": " + join(r.candidates) + "; the held-out loss may rise by " + fixed(100 * r.max_loss_increase, 2) + " %";
  }
  if (r.method == "procrustes") text += ", anchor " + dial(r.anchor);
  if (starts_with(r.method, "qk-pro")) text += ", ridge " + dial(ridge_of(r));
  if (restore_interval(r) > 0) text += ", " + r.at + " steps and at the end (moments: " + r.optimizer_state + ")";
  if (!r.layers.word.empty() && r.layers != plain.layers) text += ", " + r.layers.word + (r.layers.word == "all" ? " layers" : " layers alone");
  if (r.layers.word.empty()) text += ", layers " + numbers(r.layers.list);
  if (r.parts != plain.parts) text += ", parts " + r.parts;
  if (r.biases != plain.biases) text += ", biases stay as tuned";
  if (r.qk_norm != plain.qk_norm) text += ", with the gains of QK-norm";
  return text + "\n";
}

}  // namespace

std::string describe(const Prepared& p) {
  std::string text = model_lines(p) + data_lines(p);
  text += "train    " + std::to_string(p.plan->total_steps()) + " steps of at most " + group_digits(p.config.train.tokens_per_step) +
          " tokens in micro-batches of " + group_digits(micro_batch_tokens(p.config)) + ", lr " + scientific(p.config.optim.lr, 2) + " " +
          p.config.optim.schedule + "\n";
  text += describe_frozen(p) + memory_line(p) + probe_line(p) + restore_line(p.config.qk_restore) + describe_scripts(p.scripts, weight_names(p.source.architecture));
  if (p.resuming) {
    text += p.resume_from ? "resume   " + p.resume_from->string() + "\n" : "resume   no checkpoint there yet: from the beginning\n";
  }
  return text;
}

}  // namespace qkr
