// Which heads find the needle: how much of each softmax head's attention falls on the needle's tokens while the answer is read.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "trainer/model/decoder.h"
#include "trainer/probe/codec.h"
#include "trainer/probe/items.h"

namespace qkr {

// Tokens of the input with the answer behind it, [begin, end).
struct TokenRange {
  int64_t begin = 0, end = 0;
};

// The tokens of `whole` that hold bytes [begin, end) of the text that `tokens` encode; `tokens` may begin with `special` others.
TokenRange token_range(const std::string& text, size_t begin, size_t end, const std::vector<int32_t>& tokens, int64_t special, const TextCodec& codec);

// Where the first answer stands, and the needle that gives it.
struct NeedlePlace {
  std::vector<int32_t> ids;  // the item's input and its answer, tokenised as one text
  TokenRange needle;         // "One of the special magic numbers for old-oar is: 1234567."; vt: "VAR ABCDE = 12345"
  TokenRange answer;         // of the first answer; the token before each predicts it
};
// Error: the prompt does not hold the needle's sentence (a prompt of the user's own).
NeedlePlace needle_place(const NeedleItem& item, const TextCodec& codec);

// One line of heads.jsonl.
struct HeadResult {
  std::string stage;
  int64_t step = 0;
  std::string id, task;
  int64_t length = 0;
  double depth = 0;
  TokenRange needle, answer;
  std::string model;                      // digest of the weights, "" where nobody asked for it
  std::vector<int64_t> layers;            // softmax layers, ascending
  std::vector<std::vector<double>> mass;  // a row a layer, a value a head: mean over the tokens that predict the answer
};

// Keys in the order of HeadResult; masses to six decimals.
nlohmann::ordered_json to_json(const HeadResult& result);

// One prefill of the prompt and the answer in chunks, then the rows that predict the answer, whose queries meet all keys
// (qk_restore::needle_attention). In a layer with a window the mass is that of the window.
std::vector<std::vector<double>> needle_masses(const Decoder& decoder, const NeedlePlace& place, int64_t prefill_chunk);

// All items, one after the other. stage, step and model of the results are `like`'s.
std::vector<HeadResult> run_heads(const std::vector<NeedleItem>& items, const Decoder& decoder, const TextCodec& codec, const HeadResult& like,
                                  int64_t prefill_chunk, const std::function<void(const HeadResult&, int64_t done, int64_t total)>& progress = {});

}  // namespace qkr
