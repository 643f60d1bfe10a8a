#include "trainer/probe/comparison.h"

#include <algorithm>
#include <map>
#include <utility>

#include "trainer/core/error.h"
#include "trainer/core/shown_name.h"
#include "trainer/probe/table_text.h"

namespace qkr {
namespace {

std::string place_of(const ItemResult& r) {
  return concat(r.task, "/", r.length, "/", r.index, r.reading == "teacher_forced" ? " teacher-forced" : "");
}

struct Setting {
  const char* name;
  std::string value;  // "": not told
};

// What two results of one prompt must share, in the order in which a difference is worth naming.
std::vector<Setting> settings_of(const ItemResult& r) {
  return {{"haystack", r.haystack_sha256.empty() ? r.haystack : r.haystack_sha256},
          {"tokenizer", r.tokenizer},
          {"sentence_rule", r.sentence_rule},
          {"mode", r.mode},
          {"max_new_tokens", r.max_new_tokens == 0 ? "" : std::to_string(r.max_new_tokens)},
          {"dtype", r.dtype},
          {"prompt", r.id}};
}

// Error where `got` was not made as `want` was. `who` begins the message, `whose` says what it is held against.
void check_alike(const std::vector<Setting>& got, const std::vector<Setting>& want, const ItemResult& row,
                 const std::string& who, const std::string& whose) {
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i].value == want[i].value || got[i].value.empty() || want[i].value.empty()) continue;
    fail(who, ": ", shown_name(place_of(row)), ": ", got[i].name, " must be ", whose, ", ", shown_name(want[i].value), ", got ",
         shown_name(got[i].value));
  }
}

std::map<std::string, const ItemResult*> by_place(const NamedResults& results) {
  std::map<std::string, const ItemResult*> rows;
  for (const ItemResult& r : results.results) {
    if (r.stage != results.results[0].stage)
      fail(results.name, ": must hold one stage, got ", shown_name(results.results[0].stage), " and ", shown_name(r.stage));
    rows[place_of(r)] = &r;
  }
  return rows;
}

}  // namespace

void check_same_prompts(const NamedResults& first, const NamedResults& second) {
  const auto rows = by_place(first);
  for (const ItemResult& r : second.results) {
    const auto partner = rows.find(place_of(r));
    if (partner == rows.end()) continue;
    check_alike(settings_of(r), settings_of(*partner->second), r, second.name, "that of " + first.name);
  }
}

ResultComparison compare_results(const NamedResults& first, const NamedResults& second) {
  check_same_prompts(first, second);
  const auto rows_first = by_place(first), rows_second = by_place(second);
  ResultComparison out;
  std::vector<ItemResult> both;
  const auto take = [&](const NamedResults& side, const auto& rows, const auto& other, const char* stage, int64_t* unpaired) {
    for (const ItemResult& r : side.results) {
      if (rows.at(place_of(r)) != &r) continue;  // measured again later on
      *unpaired += other.count(place_of(r)) == 0 ? 1 : 0;
      both.push_back(r);
      both.back().stage = stage;
      both.back().id = place_of(r);
    }
  };
  take(first, rows_first, rows_second, "first", &out.unpaired_first);
  take(second, rows_second, rows_first, "second", &out.unpaired_second);
  out.cells = compare(both, "first", "second");
  if (out.cells.empty()) fail(second.name, ": must share a prompt with ", first.name, ", got none");
  std::vector<Paired> strata;
  for (CellComparison& cell : out.cells) {
    cell.before = first.name;
    cell.after = second.name;
    strata.push_back(cell.counts);
  }
  out.overall = stratified(strata);
  return out;
}

std::string comparison_table(const NamedResults& first, const NamedResults& second) {
  const ResultComparison comparison = compare_results(first, second);
  std::vector<std::vector<std::string>> rows = {{"task", "length", "first", "second", "second - first", "", "", ""}};
  const auto add = [&](const std::string& task, const std::string& length, const Paired& c, const Interval& interval, double difference,
                       double p) {
    const double n = static_cast<double>(c.n());
    rows.push_back({task, length, percent_text(static_cast<double>(c.both + c.only_second) / n) + "%",
                    percent_text(static_cast<double>(c.both + c.only_first) / n) + "%", points_text(difference) + " points",
                    "[" + points_text(interval.low) + ", " + points_text(interval.high) + "]", concat("n=", c.n(), " paired"),
                    p_value_text(p)});
  };
  for (const CellComparison& c : comparison.cells)
    add(c.task, std::to_string(c.length), c.counts, c.interval, c.difference, c.p);
  const Stratified& all = comparison.overall;
  if (comparison.cells.size() > 1) add("all cells", "", all.pooled, all.interval, all.difference, all.p);
  std::string text = concat("first:  ", first.name, "\nsecond: ", second.name, "\n\n", text_columns(rows));
  if (comparison.unpaired_first + comparison.unpaired_second > 0) {
    text += concat("not counted, as the other has no such prompt: ", comparison.unpaired_first, " of the first, ",
                   comparison.unpaired_second, " of the second\n");
  }
  return text;
}

std::vector<NeedleItem> items_left(const std::vector<NeedleItem>& items, const std::vector<ItemResult>& done,
                                   const ProbeOptions& options, const std::string& file) {
  std::map<std::string, const ItemResult*> rows;
  for (const ItemResult& r : done) {
    check_alike({{"model", r.model}, {"tokenizer", r.tokenizer}, {"dtype", r.dtype}},
                {{"", options.model}, {"", options.tokenizer}, {"", options.dtype}}, r, file, "this probe's");
    rows[place_of(r)] = &r;
  }
  std::vector<NeedleItem> left;
  for (const NeedleItem& item : items) {
    const ItemResult want = result_of(item, options);
    const auto found = rows.find(place_of(want));
    if (found == rows.end()) {
      left.push_back(item);
    } else {
      check_alike(settings_of(*found->second), settings_of(want), want, file, "this probe's");
    }
  }
  return left;
}

}  // namespace qkr
