#include "trainer/report/run_data.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <sstream>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/core/whole.h"

namespace qkr {

namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

std::optional<std::string> read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in || fs::is_directory(path)) return std::nullopt;
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::optional<double> find_number(const Json& row, const char* key) {
  const auto found = row.find(key);
  if (found == row.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

std::string find_text(const Json& row, const char* key) {
  const auto found = row.find(key);
  return found != row.end() && found->is_string() ? found->get<std::string>() : "";
}

std::string line_numbers(const std::vector<size_t>& lines) {
  std::string text = lines.size() == 1 ? "line " : "lines ";
  for (size_t i = 0; i < lines.size() && i < 5; ++i) text += (i > 0 ? ", " : "") + std::to_string(lines[i]);
  return lines.size() > 5 ? concat(text, " and ", lines.size() - 5, " more") : text;
}

// Hands each JSON object of the file to `take`, which returns false for a row that lacks what it must have. What was left out
// becomes a note. A last line without its newline that does not parse is a write that was cut off, not an error.
void read_lines(const fs::path& path, const char* absent, std::vector<std::string>& notes,
                const std::function<bool(const Json&)>& take) {
  const std::string file = path.filename().string();
  const std::optional<std::string> text = read_text(path);
  if (!text) {
    notes.push_back(concat("There is no ", file, ": ", absent));
    return;
  }
  std::vector<size_t> refused;
  size_t line_number = 0;
  for (size_t at = 0; at < text->size();) {
    const size_t end = text->find('\n', at);
    const std::string_view line = std::string_view(*text).substr(at, end == std::string::npos ? end : end - at);
    at = end == std::string::npos ? text->size() : end + 1;
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const Json row = Json::parse(line, nullptr, false);
    if (row.is_object() && take(row)) continue;
    if (end == std::string::npos && row.is_discarded()) {
      notes.push_back(concat("The last line of ", file, " is cut off and was left out."));
    } else {
      refused.push_back(line_number);
    }
  }
  if (!refused.empty()) notes.push_back(concat(file, ": ", line_numbers(refused), " could not be read and ",
                                               refused.size() == 1 ? "was" : "were", " left out."));
}

using HookValues = std::map<std::string, std::map<int64_t, std::optional<double>>>;  // by metric, by step

void take_hook_values(const Json& row, int64_t step, HookValues& values) {
  constexpr std::string_view kPrefix = "hook/";
  for (const auto& [key, value] : row.items()) {
    if (!starts_with(key, kPrefix) || !(value.is_number() || value.is_null())) continue;
    values[key.substr(kPrefix.size())][step] = value.is_number() ? std::optional<double>(value.get<double>()) : std::nullopt;
  }
}

std::vector<LogRow> read_log(const fs::path& path, std::vector<std::string>& notes, std::vector<HookCurve>* hooks) {
  std::map<int64_t, LogRow> by_step;
  HookValues hook_values;
  size_t again = 0;
  read_lines(path, "the page has no loss curve.", notes, [&](const Json& json) {
    const std::optional<double> step = find_number(json, "step");
    if (!step) return false;
    take_hook_values(json, whole(*step), hook_values);
    if (json.contains("event")) return true;  // what a hook measured between the steps
    LogRow row;
    row.step = whole(*step);
    row.loss = find_number(json, "loss");
    row.grad_norm = find_number(json, "grad_norm");
    row.lr = find_number(json, "lr");
    row.tokens = find_number(json, "tokens");
    row.tokens_seen = find_number(json, "tokens_seen");
    row.trained_tokens = find_number(json, "trained_tokens");
    row.seconds = find_number(json, "seconds");
    row.tokens_per_second = find_number(json, "tokens_per_second");
    row.memory_bytes = find_number(json, "memory_bytes");
    again += by_step.count(row.step);
    by_step[row.step] = row;
    return true;
  });
  if (again > 0) notes.push_back(concat("log.jsonl holds ", again, again == 1 ? " step" : " steps",
                                        " twice, as after a resume; the later row counts."));
  std::vector<LogRow> rows;
  for (auto& [step, row] : by_step) rows.push_back(row);
  for (const auto& [name, values] : hook_values) hooks->push_back({name, {values.begin(), values.end()}});
  return rows;
}

std::vector<ProbeRow> read_probe(const fs::path& path, std::vector<std::string>& notes) {
  std::vector<ProbeRow> rows;
  read_lines(path, "recall was not measured.", notes, [&](const Json& json) {
    const auto hit = json.find("hit");
    const std::optional<double> length = find_number(json, "length");
    if (hit == json.end() || !(hit->is_boolean() || hit->is_number()) || !length) return false;
    ProbeRow row;
    row.stage = find_text(json, "stage");
    row.step = whole(find_number(json, "step").value_or(0));
    row.id = find_text(json, "id");
    row.task = find_text(json, "task");
    if (row.stage.empty() || row.id.empty() || row.task.empty()) return false;
    row.length = whole(*length);
    row.depth = find_number(json, "depth");
    if (const auto outputs = json.find("outputs"); outputs != json.end() && outputs->is_array()) {
      for (const Json& output : *outputs) {
        row.expected += (row.expected.empty() ? "" : ", ") + (output.is_string() ? output.get<std::string>() : output.dump());
      }
    }
    if (row.expected.empty()) row.expected = find_text(json, "value");
    row.prediction = find_text(json, "prediction");
    row.hit = hit->is_boolean() ? hit->get<bool>() : hit->get<double>() != 0;
    row.stopped = find_text(json, "stopped");
    row.mode = find_text(json, "mode");
    row.reading = find_text(json, "reading");
    row.haystack = find_text(json, "haystack");
    row.haystack_sha256 = find_text(json, "haystack_sha256");
    row.sentence_rule = find_text(json, "sentence_rule");
    rows.push_back(std::move(row));
    return true;
  });
  return rows;
}

bool take_masses(const Json& json, HeadRow* row) {
  const auto layers = json.find("layers"), mass = json.find("mass");
  if (layers == json.end() || !layers->is_array() || mass == json.end() || !mass->is_array() || mass->size() != layers->size()) return false;
  for (const Json& layer : *layers) {
    if (!layer.is_number_integer()) return false;
    row->layers.push_back(layer.get<int64_t>());
  }
  for (const Json& heads : *mass) {
    if (!heads.is_array() || !std::all_of(heads.begin(), heads.end(), [](const Json& share) { return share.is_number(); })) return false;
    row->mass.push_back(heads.get<std::vector<double>>());
  }
  return true;
}

std::vector<HeadRow> read_heads(const fs::path& path, std::vector<std::string>& notes) {
  std::vector<HeadRow> rows;
  if (!fs::exists(path)) return rows;  // an option of the probe, so nothing is missing
  read_lines(path, "", notes, [&](const Json& json) {
    HeadRow row;
    row.stage = find_text(json, "stage");
    row.step = whole(find_number(json, "step").value_or(0));
    row.id = find_text(json, "id");
    row.task = find_text(json, "task");
    row.length = whole(find_number(json, "length").value_or(0));
    if (row.stage.empty() || row.id.empty() || !take_masses(json, &row)) return false;
    rows.push_back(std::move(row));
    return true;
  });
  return rows;
}

// null if there is no such file, or (with a note) no object in it.
Json read_object(const fs::path& path, std::vector<std::string>& notes) {
  const std::optional<std::string> text = read_text(path);
  if (!text) return nullptr;
  Json object = Json::parse(*text, nullptr, false);
  if (object.is_object()) return object;
  notes.push_back(concat(path.filename().string(), " is not a JSON object and was left out."));
  return nullptr;
}

// section.key of the configuration, "" if it is not there. The report shows old and hand-made files too, so it looks a key up
// and does not check the file.
std::string config_value(const std::string& yaml, const char* section, const char* key) {
  try {
    const YAML::Node value = YAML::Load(yaml)[section][key];
    return value.IsScalar() ? value.Scalar() : "";
  } catch (const YAML::Exception&) {
    return "";
  }
}

}  // namespace

RunData read_run(const fs::path& folder) {
  RunData run;
  fs::path named = fs::absolute(folder).lexically_normal();
  if (!named.has_filename()) named = named.parent_path();  // "runs/x/"
  run.name = named.filename().string();
  if (!fs::is_directory(folder)) fail(folder.string(), ": must be a run's folder, got no folder");
  const std::optional<std::string> config = read_text(folder / "config.yaml");
  if (!config) fail((folder / "config.yaml").string(), ": must be a file that can be read: every run's folder has one");
  run.config_text = *config;
  run.summary = read_object(folder / "summary.json", run.notes);
  if (!fs::exists(folder / "summary.json")) run.notes.push_back("There is no summary.json: the run has not ended, or was killed.");
  run.log = read_log(folder / "log.jsonl", run.notes, &run.hooks);
  run.probe = read_probe(folder / "probe.jsonl", run.notes);
  const auto is_forced = [](const ProbeRow& row) { return row.reading == "teacher_forced"; };
  if (!std::all_of(run.probe.begin(), run.probe.end(), is_forced)) {
    std::copy_if(run.probe.begin(), run.probe.end(), std::back_inserter(run.forced), is_forced);
    std::erase_if(run.probe, is_forced);
  }
  run.heads = read_heads(folder / "heads.jsonl", run.notes);
  run.restore = read_object(folder / "restore.json", run.notes);
  run.model = find_text(run.summary, "model");
  if (run.model.empty()) run.model = config_value(run.config_text, "model", "path");
  run.method = find_text(run.restore, "method");
  if (run.method.empty()) run.method = find_text(run.summary, "method");
  if (run.method.empty()) run.method = config_value(run.config_text, "qk_restore", "method");
  if (!fs::exists(folder / "restore.json") && run.method != "none") {
    run.notes.push_back("There is no restore.json: nothing was restored.");
  }
  return run;
}

}  // namespace qkr
