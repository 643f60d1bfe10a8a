// The second reading: the answer is put behind the prompt, and one prefill says whether each of its tokens is what greedy decoding
// would take there, and how likely they are. Stricter than RULER's score, which forgives words before the answer: a metric of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "trainer/probe/runner.h"

namespace qkr {

struct AnswerScore {
  std::vector<double> logprobs;  // of the tokens from `first` on, each given all before it
  std::vector<int64_t> ranks;    // 0: the most likely token
};

// Scores ids[first], ids[first + 1], ...; first is at least 1.
using AnswerReader = std::function<AnswerScore(const std::vector<int32_t>& ids, int64_t first)>;

// An answer of many to be read, and where its score goes: as TextRequest.
struct ReadRequest {
  const std::vector<int32_t>* ids = nullptr;
  int64_t first = 0;
  int64_t cell_length = 0;
  std::function<void(AnswerScore score, double seconds)> done;
};
using ReadEngine = std::function<void(const std::vector<ReadRequest>&)>;

// " 1234567"; several answers as the question lists keys, " a, b, c, and d"; vt " A B C D E", as its example has them. Without the
// first space where a chat template ends the prompt.
std::string gold_answer(const NeedleItem& item);

struct ForcedInput {
  std::vector<int32_t> ids;  // the item's input and its answer, tokenised as one text
  int64_t first = 0;         // the first token in which that differs from the input alone
};
ForcedInput forced_input(const NeedleItem& item, const TextCodec& codec);

// `reading` of the results is "teacher_forced"; hit: every answer token has rank 0; score 100 or 0.
std::vector<ItemResult> run_teacher_forced(const std::vector<NeedleItem>& items, const ReadEngine& engine, const TextCodec& codec,
                                           const ProbeOptions& options, const ProbeProgress& progress = {});
// One answer after the other.
std::vector<ItemResult> run_teacher_forced(const std::vector<NeedleItem>& items, const AnswerReader& read, const TextCodec& codec,
                                           const ProbeOptions& options, const ProbeProgress& progress = {});

// How the two readings of the same prompts agree: a line a cell and one over all, with Cohen's kappa and the seconds a prompt of
// each. Empty if there are not both.
std::string agreement_table(const std::vector<ItemResult>& results);

}  // namespace qkr
