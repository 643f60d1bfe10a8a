#include <algorithm>
#include <cmath>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/core/whole.h"
#include "trainer/report/headline.h"
#include "trainer/report/html.h"
#include "trainer/report/sections.h"

namespace qkr {

namespace {

using html::Cell;
using html::escape;
using html::fact;
using Json = nlohmann::ordered_json;

constexpr size_t kLogRows = 25;  // of the table under the charts
constexpr size_t kGateEvents = 12;

std::string text_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

// What the summary says, but for what the masthead shows in another place.
std::string facts(const RunData& run) {
  std::string list = "<dl class=\"facts\">\n";
  list += fact("model", run.model.empty() ? "unknown" : escape(run.model));
  list += fact("restore method", run.method.empty() ? "unknown" : escape(run.method));
  if (run.summary.is_object()) {
    for (const auto& [key, value] : run.summary.items()) {
      if (key != "status" && key != "model" && key != "method" && key != "message" && key != "gates") list += html::json_fact(key, value);
    }
  }
  return list + "</dl>\n";
}

// A run that a signal stopped has neither failed nor finished; one without a summary neither.
std::string status_badge(const RunData& run) {
  const std::string status = text_of(run.summary, "status");
  const bool open = status.empty() || status == "stopped";
  return concat("<span class=\"badge ", open ? "open" : status == "finished" ? "good" : "bad", "\">",
                status.empty() ? "not finished" : escape(status), "</span>");
}

std::string tiles(const Recall& recall) {
  const std::vector<size_t> stages = recall.main_stages();
  if (stages.empty()) return "";
  std::string list = "<ol class=\"tiles\">\n";
  for (size_t i = 0; i < stages.size(); ++i) {
    const Rate rate = recall.rate(stages[i], {});
    if (i > 0) {
      const Change step = recall.paired(stages[i - 1], stages[i], {});
      list += concat("<li class=\"step ", direction(step), "\"><span aria-hidden=\"true\">→</span><b>", html::points(step.difference),
                     "</b><small>points</small></li>\n");
    }
    list += concat("<li class=\"tile\"><span>", escape(recall.stages()[stages[i]].label), "</span><b>", html::percent(rate.rate),
                   "</b><small>", group_digits(rate.hits), " of ", group_digits(rate.n), " · 95%: ", html::percent(rate.low), " to ",
                   html::percent(rate.high), "</small></li>\n");
  }
  return list + "</ol>\n";
}

std::string notes(const RunData& run) {
  if (run.notes.empty()) return "";
  std::string list = "<ul class=\"notes\">\n";
  for (const std::string& note : run.notes) list += concat("<li>", escape(note), "</li>\n");
  return list + "</ul>\n";
}

// The gates that were broken, in their order; of a long list the last ones.
std::string gates(const RunData& run) {
  if (!run.summary.is_object() || !run.summary.contains("gates") || !run.summary["gates"].is_array()) return "";
  const Json& events = run.summary["gates"];
  const size_t shown = std::min<size_t>(events.size(), kGateEvents);
  std::string list = "<ul class=\"notes gates\">\n";
  if (shown < events.size()) list += concat("<li>", events.size() - shown, " earlier gate events are in log.jsonl.</li>\n");
  for (size_t i = events.size() - shown; i < events.size(); ++i) {
    const Json& event = events[i];
    if (!event.is_object()) continue;
    const auto step = event.find("step");
    list += concat("<li>Gate, ", escape(text_of(event, "action")), step != event.end() && step->is_number() ? ", step " + html::number(step->get<double>()) : "",
                   ": ", escape(text_of(event, "reason")), ".</li>\n");
  }
  return list + "</ul>\n";
}

std::string optional_number(const std::optional<double>& value) { return value ? html::number(*value) : "–"; }

std::string log_table(const RunData& run) {
  html::Table table("Numbers by step", "log");
  table.head({{.html = "Step", .numeric = true}, {.html = "loss", .numeric = true}, {.html = "grad norm", .numeric = true},
              {.html = "learning rate", .numeric = true}, {.html = "tokens seen", .numeric = true},
              {.html = "tokens/s", .numeric = true}, {.html = "memory", .numeric = true}});
  const auto num = [](std::string text) { return Cell{.html = std::move(text), .numeric = true}; };
  const size_t count = std::min(run.log.size(), kLogRows);
  for (size_t i = 0; i < count; ++i) {
    const LogRow& row = run.log[count == 1 ? 0 : i * (run.log.size() - 1) / (count - 1)];
    table.row({num(group_digits(row.step)), num(optional_number(row.loss)), num(optional_number(row.grad_norm)),
               num(optional_number(row.lr)), num(optional_number(row.tokens_seen)), num(optional_number(row.tokens_per_second)),
               num(row.memory_bytes ? human_bytes(whole(*row.memory_bytes)) : "–")});
  }
  return table.html();
}

std::string training_facts(const RunData& run) {
  const LogRow& first = run.log.front();
  const LogRow& last = run.log.back();
  std::string list = "<dl class=\"facts\">\n" + fact("last step", group_digits(last.step));
  list += fact("loss, first → last", optional_number(first.loss) + " → " + optional_number(last.loss));
  double seconds = 0, tokens = 0, memory = 0;
  for (const LogRow& row : run.log) {
    if (row.seconds && row.tokens) {
      seconds += *row.seconds;
      tokens += *row.tokens;
    }
    memory = std::max(memory, row.memory_bytes.value_or(0));
  }
  if (last.tokens_seen) list += fact("tokens seen", html::number(*last.tokens_seen));
  if (seconds > 0) list += fact("tokens/s in steps", html::number(std::round(tokens / seconds)));
  if (memory > 0) list += fact("peak memory", human_bytes(whole(memory)));
  return list + "</dl>\n";
}

}  // namespace

std::string masthead(const RunData& run, const Recall& recall) {
  const Headline text = headline(recall);
  const std::string message = text_of(run.summary, "message");
  std::string page = concat("<header>\n<p class=\"eyebrow\">qk-restore run</p>\n<h1>", escape(run.name), " ", status_badge(run), "</h1>\n");
  if (!message.empty()) page += concat("<p class=\"message\">", escape(message), "</p>\n");
  page += concat("<p class=\"headline\">", escape(text.title), "</p>\n");
  page += tiles(recall);
  if (!text.verdicts.empty()) {
    page += "<ul class=\"verdicts\">\n";
    for (const std::string& verdict : text.verdicts) page += concat("<li>", escape(verdict), "</li>\n");
    page += "</ul>\n";
  }
  return page + facts(run) + gates(run) + notes(run) + "</header>\n";
}

std::string training_section(const RunData& run) {
  if (run.log.empty()) return "";
  return concat(
      "<section aria-labelledby=\"training\">\n<h2 id=\"training\">Training</h2>\n", training_facts(run),
      "<div class=\"controls scripted\"><label><input type=\"checkbox\" id=\"smooth\" checked> smooth the loss</label> "
      "<span class=\"hint\" id=\"smooth-hint\"></span><span class=\"hint\">Drag to zoom, double-click to reset.</span></div>\n"
      "<div class=\"chart\" id=\"chart-loss\"></div>\n<div class=\"chart\" id=\"chart-norm\"></div>\n"
      "<noscript><p class=\"hint\">The curves are drawn by a script in this page; the numbers are below.</p></noscript>\n",
      hook_curves(run.hooks), html::details("Numbers by step", log_table(run)), "</section>\n");
}

std::string config_section(const RunData& run) {
  return concat("<section aria-labelledby=\"config\">\n<h2 id=\"config\">Configuration</h2>\n",
                html::details("config.yaml", concat("<pre tabindex=\"0\">", escape(run.config_text), "</pre>\n")), "</section>\n");
}

}  // namespace qkr
