#include <algorithm>
#include <filesystem>

#include "trainer/apps/frozen.h"
#include "trainer/apps/output.h"
#include "trainer/apps/process.h"
#include "trainer/apps/session.h"
#include "trainer/core/digest.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/hooks/auto_restore.h"
#include "trainer/io/atomic.h"
#include "trainer/loop/trainable.h"
#include "trainer/model/kernels.h"
#include "trainer/probe/codec.h"
#include "trainer/probe/generated_text.h"
#include "trainer/probe/haystack.h"
#include "trainer/restore/selection.h"

namespace qkr {
namespace {

namespace fs = std::filesystem;

// Room for the model (twice if the tuned one is kept too) and for the checkpoints that stay, plus the one being written.
void check_disk(const Prepared& p) {
  const int64_t parameters = parameter_count(p.source.architecture);
  const int64_t weight = p.config.model.dtype == "bfloat16" ? 2 : 4;
  constexpr int64_t kState = 12;  // of a checkpoint: two fp32 moments, and an fp32 weight whole or in its two halves; of a frozen one the weight
  const int64_t trained = count_trained(p.source.architecture, p.frozen).weights;
  constexpr int64_t kBesides = int64_t{8} << 20;  // a checkpoint's headers, logs, the report
  const int64_t models = p.config.save_sft_model ? 2 : 1;
  const int64_t checkpoints = p.config.checkpoint.every > 0 ? p.config.checkpoint.keep + 1 : 1;
  need_free_bytes(p.config.output,
                  models * (parameters * weight + companion_bytes(p.source)) +
                      checkpoints * (trained * kState + (parameters - trained) * weight) + kBesides,
                  "the model and the checkpoints");
}

void check_kernels(const Prepared& p) {
  if (p.config.model.allow_slow) return;
  const std::string refusal = slow_kernel_refusal(p.source.architecture, p.device, model_dtype(p.config));
  if (!refusal.empty()) fail(p.source.folder, ": ", refusal);
}

// A status each second, and for a log, which has none, a line after 10 seconds, 20, 40 and so on.
LoadWatch load_lines(Console& console) {
  return [&console, next = 10.0](const LoadProgress& p) mutable {
    constexpr int64_t kLarge = 1 << 20;  // a row that takes its while by itself
    const std::string at_work =
        p.largest_bytes < kLarge ? "" : concat("; at work on ", p.largest, ", one row of ", human_bytes(p.largest_bytes));
    const std::string text = concat("data     ", group_digits(p.rows_done), " of ", group_digits(p.rows), " rows tokenised in ",
                                    human_seconds(p.seconds), ", ", human_bytes(p.bytes_done), " of ", human_bytes(p.bytes), at_work);
    console.status(text);
    if (p.seconds < next) return;
    console.line(text);
    next *= 2;
  };
}

// Packs what is trained on; with method auto some samples are kept out of it.
void pack(Prepared& p) {
  const std::vector<Sample>& samples = p.dataset.samples();
  if (p.config.qk_restore.method == "auto") {
    p.held_out = held_out_samples(static_cast<int64_t>(samples.size()), p.config.qk_restore.held_out);
  }
  std::vector<int64_t> trained, lengths;
  for (int64_t i = 0; i < static_cast<int64_t>(samples.size()); ++i) {
    if (std::binary_search(p.held_out.begin(), p.held_out.end(), i)) continue;
    trained.push_back(i);
    lengths.push_back(samples[i].size());
  }
  p.rows = pack_rows(lengths, p.config.data.max_length, p.config.data.packing);
  for (Row& row : p.rows) {
    for (int64_t& place : row) place = trained[place];
  }
}

}  // namespace

void check_vocabulary(const ModelSource& source, const TextModel& text) {
  const int64_t tokens = text.tokenizer->vocab_size(), rows = source.architecture.vocab_size;
  if (tokens > rows) {
    fail(source.folder, "/config.json: vocab_size must be at least the tokenizer's ", tokens, " tokens, got ", rows);
  }
}

std::vector<std::string> weight_names(const Architecture& architecture) {
  std::vector<std::string> names;
  for (const WeightSpec& spec : weight_specs(architecture)) names.push_back(spec.name);
  return names;
}

namespace {

std::shared_ptr<const Haystack> haystack_of(const ProbeConfigSection& config) {
  if (config.haystack.empty()) return std::make_shared<const Haystack>(generated_haystack());
  return std::make_shared<const Haystack>(read_text_file(config.haystack), fs::path(config.haystack).filename().string());
}

}  // namespace

std::vector<NeedleItem> make_items(const ProbeConfigSection& config, const TextModel& text) {
  if (config.lengths.empty()) return {};
  ProbeConfigSection first = config;
  if (config.samples.is_auto()) first.samples = std::min(kSampleBatch, config.max_samples);
  return draw_items(first, haystack_of(config).get(), text_codec(text));
}

ItemPool make_pool(const ProbeConfigSection& config, const TextModel& text) {
  if (!config.samples.is_auto() || config.lengths.empty()) return {};
  return ItemPool([config, haystack = haystack_of(config), codec = text_codec(text)](const std::string& task, int64_t length, int64_t first,
                                                                                     int64_t count) {
    return draw_cell(config, parse_needle_task(task), length, first, count, haystack.get(), codec);
  });
}

std::string tokenizer_digest(const std::string& model_folder) {
  return sha256_hex(read_text_file((fs::path(model_folder) / "tokenizer.json").string())).substr(0, 16);
}

at::ScalarType model_dtype(const RunConfig& config) { return config.model.dtype == "bfloat16" ? at::kBFloat16 : at::kFloat; }

Prepared prepare_data(const RunConfig& config, Console& console) {
  Prepared p;
  p.config = config;
  p.source = ModelSource::read(config.model.path, config.model.attn_logits_scaling);
  p.text = TextModel::load(config.model.path, config.model.chat_template);
  check_vocabulary(p.source, p.text);
  p.dataset = Dataset::load(config.data, p.text, load_lines(console));
  return p;
}

Prepared prepare(const RunConfig& config, bool resume, Console& console) {
  Prepared p = prepare_data(config, console);
  p.device = choose_device(config.model.device);
  check_kernels(p);
  p.scripts = load_scripts(config.hooks, weight_names(p.source.architecture), p.device);
  check_output(p, resume);
  check_selection(mixer_layers(p.source.architecture), config.qk_restore, config.model.path);
  choose_frozen(p);
  if (config.model.init == "checkpoint") check_weights(p.source);
  pack(p);
  p.plan = make_plan(config, p.dataset.samples(), p.rows);
  check_disk(p);
  p.items = make_items(config.probe, p.text);
  return p;
}

}  // namespace qkr
