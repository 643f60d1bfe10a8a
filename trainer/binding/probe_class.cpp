#include <ATen/ATen.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "trainer/binding/classes.h"
#include "trainer/binding/options.h"
#include "trainer/io/atomic.h"
#include "trainer/probe/generated_text.h"
#include "trainer/probe/record.h"
#include "trainer/probe/summary.h"
#include "trainer/probe/teacher_forced.h"

namespace qkr {
namespace {

using nlohmann::json;

std::vector<NeedleItem> draw(const std::string& options, const TextCodec& codec) {
  const ProbeConfigSection section = probe_options(options);
  if (section.lengths.empty()) fail("lengths: must be given, got none");
  const std::string& path = section.haystack;
  const Haystack haystack =
      path.empty() ? generated_haystack() : Haystack(read_text_file(path), std::filesystem::path(path).filename().string());
  return draw_items(section, &haystack, codec);
}

at::Tensor as_tensor(const std::vector<int32_t>& ids) { return at::tensor(at::ArrayRef<int32_t>(ids), at::kInt).to(at::kLong); }

std::vector<int32_t> as_ids(const std::vector<int64_t>& tokens) { return {tokens.begin(), tokens.end()}; }

// Hands over tokens that are made already, one after the other, as if they were being made.
Generator replay(const std::vector<int64_t>& tokens) {
  return [ids = as_ids(tokens)](const std::vector<int32_t>&, const StopRule& stop) {
    std::vector<int32_t> so_far;
    for (const int32_t id : ids) {
      so_far.push_back(id);
      if (stop(so_far)) break;
    }
    return so_far;
  };
}

json interval_json(const Interval& interval) { return {interval.low, interval.high}; }

}  // namespace

NeedleProbeClass::NeedleProbeClass(const std::string& folder, const std::string& options, const std::vector<int64_t>& eos_ids,
                                   const std::string& labels)
    : text_(TextModel::load(folder, "")), codec_(text_codec(text_)), items_(draw(options, codec_)) {
  const ProbeConfigSection section = probe_options(options);
  options_.mode = section.mode;
  options_.max_new_tokens = section.max_new_tokens;
  options_.eos_ids = as_ids(eos_ids);
  const json words = json::parse(labels, nullptr, /*allow_exceptions=*/false);
  if (!words.is_object()) fail("labels: must be a JSON object, got ", labels);
  options_.model = words.value("model", "");
  options_.tokenizer = words.value("tokenizer", "");
  options_.dtype = words.value("dtype", "");
}

const NeedleItem& NeedleProbeClass::item(int64_t index) const {
  if (index < 0 || index >= size()) fail("index: must be in 0 .. ", size() - 1, ", got ", index);
  return items_[static_cast<size_t>(index)];
}

ProbeOptions NeedleProbeClass::options_at(const std::string& stage, int64_t step) const {
  ProbeOptions options = options_;
  options.stage = stage;
  options.step = step;
  return options;
}

at::Tensor NeedleProbeClass::ids(int64_t index) const { return as_tensor(item(index).ids); }

std::string NeedleProbeClass::text(int64_t index) const { return item(index).prompt + item(index).answer_prefix; }

bool NeedleProbeClass::is_finished(int64_t index, const std::vector<int64_t>& made) const {
  return run_probe({item(index)}, replay(made), codec_, options_)[0].stopped != "generator";
}

std::string NeedleProbeClass::result(int64_t index, const std::vector<int64_t>& made, double seconds, const std::string& stage,
                                     int64_t step) const {
  ItemResult row = run_probe({item(index)}, replay(made), codec_, options_at(stage, step))[0];
  row.seconds = seconds;
  return to_json(row).dump();
}

std::tuple<at::Tensor, int64_t> NeedleProbeClass::forced(int64_t index) const {
  const ForcedInput input = forced_input(item(index), codec_);
  return {as_tensor(input.ids), input.first};
}

std::string NeedleProbeClass::forced_result(int64_t index, const at::Tensor& logprobs, const at::Tensor& ranks, double seconds,
                                            const std::string& stage, int64_t step) const {
  const AnswerReader read = [&](const std::vector<int32_t>& ids, int64_t first) {
    const int64_t want = static_cast<int64_t>(ids.size()) - first;
    if (logprobs.numel() != want || ranks.numel() != want) {
      fail("logprobs and ranks: must have one value for each of the answer's ", want, " tokens, got ", logprobs.numel(), " and ", ranks.numel());
    }
    const at::Tensor p = logprobs.cpu().to(at::kDouble).contiguous(), r = ranks.cpu().to(at::kLong).contiguous();
    return AnswerScore{{p.const_data_ptr<double>(), p.const_data_ptr<double>() + want},
                       {r.const_data_ptr<int64_t>(), r.const_data_ptr<int64_t>() + want}};
  };
  ItemResult row = run_teacher_forced({item(index)}, read, codec_, options_at(stage, step))[0];
  row.seconds = seconds;
  return to_json(row).dump();
}

std::string probe_summary(const std::vector<std::string>& rows) {
  std::vector<ItemResult> results;
  for (size_t i = 0; i < rows.size(); ++i) {
    results.push_back(item_result_from_json(nlohmann::ordered_json::parse(rows[i], nullptr, false), concat("rows[", i, "]")));
  }
  json cells = json::array(), changes = json::array();
  for (const CellSummary& c : summarise(results)) {
    cells.push_back({{"stage", c.stage}, {"task", c.task}, {"length", c.length}, {"n", c.n}, {"hits", c.hits}, {"rate", c.rate},
                     {"interval", interval_json(c.interval)}, {"score", c.score}, {"mean_seconds", c.mean_seconds}});
  }
  for (const CellComparison& c : compare_stages(results)) {
    changes.push_back({{"before", c.before}, {"after", c.after}, {"task", c.task}, {"length", c.length}, {"n", c.counts.n()},
                       {"difference", c.difference}, {"interval", interval_json(c.interval)}, {"p", c.p}});
  }
  return json{{"cells", cells}, {"changes", changes}, {"table", probe_table(results)}}.dump();
}

}  // namespace qkr
