#include "trainer/probe/teacher_forced.h"

#include <algorithm>
#include <map>
#include <utility>

#include "trainer/core/error.h"
#include "trainer/core/lap.h"
#include "trainer/core/text.h"
#include "trainer/probe/statistics.h"
#include "trainer/probe/table_text.h"

namespace qkr {
namespace {

ItemResult finished(ItemResult result, const AnswerScore& score, double seconds) {
  result.seconds = seconds;
  result.answer_tokens = static_cast<int64_t>(score.ranks.size());
  if (score.ranks.empty()) fail_run(result.id, ": the answer must have a token, got none");
  result.answer_rank = *std::max_element(score.ranks.begin(), score.ranks.end());
  for (const double logprob : score.logprobs) result.answer_logprob += logprob / static_cast<double>(score.logprobs.size());
  result.hit = result.answer_rank == 0;
  result.score = result.hit ? 100 : 0;
  return result;
}

struct Agreement {
  std::string task;
  int64_t length = 0;
  Paired counts;  // the first is generate
  double seconds_generate = 0, seconds_forced = 0;
};

void add(Agreement* cell, const ItemResult& generated, const ItemResult& forced) {
  Paired& c = cell->counts;
  ++(generated.hit ? (forced.hit ? c.both : c.only_first) : (forced.hit ? c.only_second : c.neither));
  cell->seconds_generate += generated.seconds;
  cell->seconds_forced += forced.seconds;
}

}  // namespace

std::string gold_answer(const NeedleItem& item) {
  std::vector<std::string> answers = {item.value};
  answers.insert(answers.end(), item.other_values.begin(), item.other_values.end());
  const std::string text = item.task == NeedleTask::kVariableTracking ? join(answers, " ") : listed(answers);
  return (item.mode == "chat" ? "" : " ") + text;
}

ForcedInput forced_input(const NeedleItem& item, const TextCodec& codec) {
  const std::string prompt = item.mode == "base" ? item.prompt : codec.chat(item.prompt);
  ForcedInput input;
  if (item.mode == "base") input.ids = codec.input_prefix;
  const std::vector<int32_t> text = codec.encode(prompt + item.answer_prefix + gold_answer(item));
  input.ids.insert(input.ids.end(), text.begin(), text.end());
  const auto differs = std::mismatch(input.ids.begin(), input.ids.end(), item.ids.begin(), item.ids.end()).first;
  input.first = differs - input.ids.begin();
  return input;
}

std::vector<ItemResult> run_teacher_forced(const std::vector<NeedleItem>& items, const ReadEngine& engine, const TextCodec& codec,
                                           const ProbeOptions& options, const ProbeProgress& progress) {
  ProbeOptions forced = options;
  forced.reading = "teacher_forced";
  InOrder results(items.size(), progress);
  std::vector<ForcedInput> inputs;
  for (const NeedleItem& item : items) inputs.push_back(forced_input(item, codec));
  std::vector<ReadRequest> requests;
  for (size_t i = 0; i < items.size(); ++i) {
    const auto done = [&, i](const AnswerScore& score, double seconds) {
      results.put(i, finished(result_of(items[i], forced), score, seconds));
    };
    requests.push_back({&inputs[i].ids, inputs[i].first, items[i].length, done});
  }
  engine(requests);
  return results.take();
}

std::vector<ItemResult> run_teacher_forced(const std::vector<NeedleItem>& items, const AnswerReader& read, const TextCodec& codec,
                                           const ProbeOptions& options, const ProbeProgress& progress) {
  const ReadEngine one_by_one = [&read](const std::vector<ReadRequest>& requests) {
    for (const ReadRequest& request : requests) {
      Lap lap;
      const AnswerScore score = read(*request.ids, request.first);
      request.done(score, lap.seconds());
    }
  };
  return run_teacher_forced(items, one_by_one, codec, options, progress);
}

std::string agreement_table(const std::vector<ItemResult>& results) {
  std::map<std::pair<std::string, std::string>, const ItemResult*> forced;  // by stage and prompt
  for (const ItemResult& r : results) {
    if (r.reading == "teacher_forced") forced[{r.stage, r.id}] = &r;
  }
  std::vector<Agreement> cells;
  Agreement all;
  all.task = "all cells";
  for (const ItemResult& r : results) {
    const auto partner = forced.find({r.stage, r.id});
    if (r.reading == "teacher_forced" || partner == forced.end()) continue;
    auto cell = std::find_if(cells.begin(), cells.end(), [&](const Agreement& a) { return a.task == r.task && a.length == r.length; });
    if (cell == cells.end()) cell = cells.insert(cells.end(), Agreement{r.task, r.length, {}, 0, 0});
    add(&*cell, r, *partner->second);
    add(&all, r, *partner->second);
  }
  if (cells.empty()) return "";
  if (cells.size() > 1) cells.push_back(all);
  std::vector<std::vector<std::string>> rows = {
      {"task", "length", "n", "generate", "teacher-forced", "both", "only gen.", "only t.f.", "neither", "kappa", "s gen.", "s t.f."}};
  for (const Agreement& a : cells) {
    const Paired& c = a.counts;
    const double n = static_cast<double>(c.n());
    rows.push_back({a.task, a.length > 0 ? std::to_string(a.length) : "", std::to_string(c.n()),
                    percent_text(static_cast<double>(c.both + c.only_first) / n) + "%",
                    percent_text(static_cast<double>(c.both + c.only_second) / n) + "%", std::to_string(c.both), std::to_string(c.only_first),
                    std::to_string(c.only_second), std::to_string(c.neither), fixed(cohen_kappa(c), 2), fixed(a.seconds_generate / n, 2),
                    fixed(a.seconds_forced / n, 2)});
  }
  return text_columns(rows);
}

}  // namespace qkr
