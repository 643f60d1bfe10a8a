// Two sets of results over the same prompts: two models, or two states of one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/probe/items.h"
#include "trainer/probe/runner.h"
#include "trainer/probe/statistics.h"
#include "trainer/probe/summary.h"

namespace qkr {

struct NamedResults {
  std::string name;  // for messages and tables
  std::vector<ItemResult> results;  // of one stage
};

struct ResultComparison {
  std::vector<CellComparison> cells;  // `before` is the first's name, `after` the second's
  Stratified overall;                 // second - first
  int64_t unpaired_first = 0, unpaired_second = 0;  // prompts that the other lacks; they count nowhere
};

// Error naming the first thing in which results of one prompt were not made alike: the prompt itself
// (another seed, length rule or text), haystack, sentence rule, tokenizer, mode, max_new_tokens,
// dtype. Settings that a row does not tell are not compared. The model may differ: that is what is compared.
void check_same_prompts(const NamedResults& first, const NamedResults& second);

// Pairs by prompt after check_same_prompts(). Error also: no prompt in common.
ResultComparison compare_results(const NamedResults& first, const NamedResults& second);

// A line a cell (both rates, difference, interval, n, p) and one over all cells.
std::string comparison_table(const NamedResults& first, const NamedResults& second);

// The items that `done` (rows of `file`, one stage) does not hold yet. Error, naming what differs, if a row was made
// with another model, tokenizer, haystack, prompt or setting than the items and options would make it with.
std::vector<NeedleItem> items_left(const std::vector<NeedleItem>& items, const std::vector<ItemResult>& done,
                                   const ProbeOptions& options, const std::string& file);

}  // namespace qkr
