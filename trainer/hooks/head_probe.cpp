#include "trainer/hooks/head_probe.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/hooks/resumed_rows.h"
#include "trainer/io/json_lines.h"

namespace qkr {
namespace {

constexpr size_t kNamedHeads = 5;

}  // namespace

HeadProbe::HeadProbe(const Decoder& decoder, TextCodec codec, std::filesystem::path file, int64_t prefill_chunk, Console& console)
    : decoder_(decoder), codec_(std::move(codec)), file_(std::move(file)), prefill_chunk_(prefill_chunk), console_(console) {}

HeadProbe::HeadProbe(const Decoder& decoder, TextCodec codec, std::filesystem::path file, int64_t prefill_chunk, int64_t resumed_step, Console& console)
    : HeadProbe(decoder, std::move(codec), std::move(file), prefill_chunk, console) {
  if (!std::filesystem::exists(file_)) return;
  // "end" and "restored" belong to a finished run; a resumed one measures them anew.
  keep_lines_while(file_, [&](const nlohmann::json& row) {
    const std::string stage = row.value("stage", "");
    return resumed_step > 0 && is_up_to_step(row, resumed_step) && stage != "end" && stage != "restored";
  });
}

std::vector<NeedleItem> HeadProbe::left(const std::string& stage, const std::string& model, const std::vector<NeedleItem>& items) const {
  std::set<std::string> there;
  if (std::filesystem::exists(file_)) {
    JsonLinesReader reader(file_, {.allow_torn_end = true});
    while (reader.next()) {
      const nlohmann::json& row = reader.row();
      const auto is = [&](const char* key, const std::string& text) { return row.contains(key) && row[key] == text; };
      if (is("stage", stage) && is("model", model) && row.contains("id") && row["id"].is_string()) there.insert(row["id"].get<std::string>());
    }
  }
  std::vector<NeedleItem> found;
  std::copy_if(items.begin(), items.end(), std::back_inserter(found), [&](const NeedleItem& item) { return there.count(item.id) == 0; });
  return found;
}

void HeadProbe::measure(const std::string& stage, int64_t step, const std::string& model, const std::vector<NeedleItem>& items) const {
  const std::vector<NeedleItem> asked = left(stage, model, items);
  if (asked.empty()) return;
  HeadResult like;
  like.stage = stage;
  like.step = step;
  like.model = model;
  JsonLinesWriter rows(file_);
  const auto results = run_heads(asked, decoder_, codec_, like, prefill_chunk_, [&](const HeadResult& result, int64_t done, int64_t total) {
    rows.write_row(to_json(result));
    console_.status(concat(progress_bar(done, total), " heads ", stage, " ", done, "/", total));
  });
  console_.line("  heads on the needle: " + top_heads_text(results, kNamedHeads));
}

std::string top_heads_text(const std::vector<HeadResult>& results, size_t count) {
  if (results.empty()) return "none";
  std::vector<std::tuple<double, int64_t, size_t>> heads;  // mean share, layer, head
  for (size_t layer = 0; layer < results[0].layers.size(); ++layer) {
    for (size_t head = 0; head < results[0].mass[layer].size(); ++head) {
      double sum = 0;
      for (const HeadResult& result : results) sum += result.mass[layer][head];
      heads.emplace_back(sum / static_cast<double>(results.size()), results[0].layers[layer], head);
    }
  }
  std::stable_sort(heads.begin(), heads.end(), [](const auto& a, const auto& b) { return std::get<0>(a) > std::get<0>(b); });
  std::vector<std::string> texts;
  for (size_t i = 0; i < heads.size() && i < count; ++i) {
    const auto& [share, layer, head] = heads[i];
    texts.push_back(concat("layer ", layer, " head ", head, " ", fixed(100 * share, 1), "%"));
  }
  return join(texts);
}

}  // namespace qkr
