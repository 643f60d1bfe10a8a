// What a run's folder holds, as the page needs it. Tolerant: an absent or damaged file costs its part of the page, and a note.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace qkr {

// A row of log.jsonl. A number that is absent or null (JSON has no NaN) is nullopt.
struct LogRow {
  int64_t step = 0;
  std::optional<double> loss, grad_norm, lr, tokens, tokens_seen, trained_tokens, seconds, tokens_per_second, memory_bytes;
};

// What a hook measured, one metric over the steps: "drift/routing/rotation". In a step's row or in one of its own.
struct HookCurve {
  std::string name;
  std::vector<std::pair<int64_t, std::optional<double>>> points;  // step (ascending), value; nullopt: null, as JSON has no NaN
};

// A row of probe.jsonl: one prompt, measured once.
struct ProbeRow {
  std::string stage;  // "start" | "step" | "end" | "restored"
  int64_t step = 0;
  std::string id, task;
  int64_t length = 0;           // tokens the prompt was sized for
  std::optional<double> depth;  // percent of the context before the needle
  std::string expected;         // the outputs, joined by ", "
  std::string prediction;
  bool hit = false;
  std::string stopped, mode, reading, haystack, haystack_sha256, sentence_rule;
};

// A row of heads.jsonl: how much of each head's attention fell on the needle of one prompt.
struct HeadRow {
  std::string stage;
  int64_t step = 0;
  std::string id, task;
  int64_t length = 0;
  std::vector<int64_t> layers;
  std::vector<std::vector<double>> mass;  // a row a layer, a value a head: shares
};

struct RunData {
  std::string name;                 // of the folder
  std::string config_text;          // config.yaml as it is
  std::string model, method;        // from the summary, else restore.json, else config.yaml; "" if none says
  std::vector<LogRow> log;          // ascending steps; of a step logged twice (a resumed run), the later row
  std::vector<HookCurve> hooks;     // of log.jsonl too, by name; of a step measured twice, the later value
  std::vector<ProbeRow> probe;      // in the file's order; where there are two readings of the prompts, that which is scored
  std::vector<ProbeRow> forced;     // the other one: teacher_forced
  std::vector<HeadRow> heads;       // likewise; empty where nobody looked at heads
  nlohmann::ordered_json restore;   // null if there is none
  nlohmann::ordered_json summary;   // null if there is none
  std::vector<std::string> notes;   // what is missing or was left out: plain sentences for the reader
};

// Error if the folder or its config.yaml cannot be read.
RunData read_run(const std::filesystem::path& folder);

}  // namespace qkr
