// A model as the probe uses it.
#pragma once

#include <cstdint>
#include <string>

#include "trainer/model/decoder.h"
#include "trainer/probe/runner.h"
#include "trainer/probe/teacher_forced.h"

namespace qkr {

// Greedy text of `decoder`, which must outlive it. The probe's own rule ends the text, the limit and the end tokens included.
Generator greedy_text(const Decoder& decoder, int64_t prefill_chunk);

// One prefill in chunks, the LM head at the answer's positions alone (qk_restore::answer_logprobs).
AnswerReader answer_reader(const Decoder& decoder, int64_t prefill_chunk);

// Error: first is not in 1 .. ids.size() - 1.
void check_answer_place(const std::vector<int32_t>& ids, int64_t first);
// hidden [count, hidden] of tokens begin, begin + 1, ...: adds the scores of those answer tokens that they predict.
void add_answer_scores(const Decoder& decoder, const at::Tensor& hidden, int64_t begin, const std::vector<int32_t>& ids, int64_t first,
                       AnswerScore* score);

// 16 hex digits that tell two models apart: of the names, dtypes and shapes of all weights and the sums of the bits of each row and
// each column, taken where the weights are, in the time of reading them. Not proof against forgery. `settings`: what else the
// model's output hangs on.
std::string weights_digest(const NamedTensors& weights, const std::string& settings);

}  // namespace qkr
