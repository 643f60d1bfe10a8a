#include "trainer/probe/record.h"

#include <cmath>
#include <type_traits>

#include "trainer/core/error.h"

namespace qkr {
namespace {

// Walks key and member together, so that writing and reading cannot differ. `later`: keys that older files lack.
template <class Result, class Visitor, class Later>
void visit(Result& r, Visitor&& field, Later&& later) {
  field("stage", r.stage);
  field("step", r.step);
  field("id", r.id);
  field("task", r.task);
  field("length", r.length);
  field("index", r.index);
  field("depth", r.depth);
  field("prompt_tokens", r.prompt_tokens);
  field("key", r.key);
  field("value", r.value);
  field("outputs", r.outputs);
  field("prediction", r.prediction);
  field("score", r.score);
  field("hit", r.hit);
  field("null", r.is_null);
  field("generated_tokens", r.generated_tokens);
  field("stopped", r.stopped);
  field("seconds", r.seconds);
  field("mode", r.mode);
  field("reading", r.reading);
  field("haystack", r.haystack);
  field("haystack_sha256", r.haystack_sha256);
  field("sentence_rule", r.sentence_rule);
  later("max_new_tokens", r.max_new_tokens);
  later("model", r.model);
  later("tokenizer", r.tokenizer);
  later("dtype", r.dtype);
  if (r.reading != "teacher_forced") return;
  later("answer_tokens", r.answer_tokens);
  later("answer_rank", r.answer_rank);
  later("answer_logprob", r.answer_logprob);
}

}  // namespace

nlohmann::ordered_json to_json(const ItemResult& result) {
  nlohmann::ordered_json row;
  const auto write = [&](const char* key, const auto& value) { row[key] = value; };
  visit(result, write, write);
  row["seconds"] = std::round(result.seconds * 1000) / 1000;
  return row;
}

ItemResult item_result_from_json(const nlohmann::ordered_json& row, const std::string& place) {
  if (!row.is_object()) fail(place, ": must be an object");
  ItemResult result;
  const auto read = [&](const char* key, auto& value) {
    const auto found = row.find(key);
    if (found == row.end()) fail(place, ": must have the key \"", key, "\"");
    using Value = std::remove_reference_t<decltype(value)>;
    bool fits = found->is_string();
    if constexpr (std::is_same_v<Value, bool>) fits = found->is_boolean();
    if constexpr (std::is_same_v<Value, int64_t>) fits = found->is_number_integer();
    if constexpr (std::is_same_v<Value, double>) fits = found->is_number();
    if constexpr (std::is_same_v<Value, std::vector<std::string>>) {
      fits = found->is_array();
      for (const auto& part : *found) fits = fits && part.is_string();
    }
    if (!fits) fail(place, ": \"", key, "\" has the wrong type, got ", found->type_name());
    found->get_to(value);
  };
  visit(result, read, [&](const char* key, auto& value) {
    if (row.contains(key)) read(key, value);
  });
  return result;
}

}  // namespace qkr
