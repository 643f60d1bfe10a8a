#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/report/html.h"
#include "trainer/report/sections.h"

namespace qkr {

namespace {

using html::Cell;
using html::escape;
using Json = nlohmann::ordered_json;

std::string text_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

double number_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<double>() : 0;
}

bool has(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null();
}

// "46.7% [30.2%, 63.9%]"
std::string recall_text(const Json& share) {
  return concat(html::percent_fixed(number_of(share, "recall")), " [", html::percent_fixed(number_of(share, "low")), ", ",
                html::percent_fixed(number_of(share, "high")), "]");
}

std::string difference_text(const Json& pair) {
  return concat(html::points(number_of(pair, "difference")), " [", html::points(number_of(pair, "difference_low")), ", ",
                html::points(number_of(pair, "difference_high")), "]");
}

std::string candidates_table(const Json& candidates, const std::string& best) {
  html::Table table("Candidates of auto", "layers");
  table.head({{.html = "candidate"}, {.html = "held-out loss", .numeric = true}, {.html = "against none", .numeric = true},
              {.html = "recall", .numeric = true}, {.html = "points against the best", .numeric = true}, {.html = "standing"}});
  const auto num = [](std::string text) { return Cell{.html = std::move(text), .numeric = true}; };
  for (const Json& one : candidates) {
    if (!one.is_object()) continue;
    const std::string name = text_of(one, "candidate"), reason = text_of(one, "reason");
    const std::string standing = text_of(one, "standing") + (reason.empty() ? "" : ": " + reason);
    if (!reason.empty()) {
      table.row({{.html = escape(name), .heading = true}, num("–"), num("–"), num("–"), num("–"), {.html = escape(standing)}});
      continue;
    }
    const std::string loss = has(one, "held_out_loss") ? html::number(number_of(one, "held_out_loss")) : "not finite";
    table.row({{.html = escape(name), .heading = true}, num(loss), num(html::points(number_of(one, "loss_increase")) + "%"), num(recall_text(one)),
               num(name == best ? "the best" : difference_text(one)), {.html = escape(standing)}});
  }
  return table.html();
}

}  // namespace

std::string auto_part(const Json& chosen) {
  if (!chosen.is_object()) return "";
  const auto candidates = chosen.find("candidates"), other = chosen.find("other_half");
  if (candidates == chosen.end() || !candidates->is_array() || other == chosen.end() || !other->is_object()) return "";
  const std::string name = text_of(chosen, "chosen");
  std::string page = name == "none" ? "<p><b>No candidate beats none, so the tuned weights stay.</b></p>\n"
                                    : concat("<p><b>Of the candidates, ", escape(name), " was chosen.</b></p>\n");
  const auto lost = chosen.find("lost");
  if (lost != chosen.end() && lost->is_object() && !text_of(*lost, "text").empty()) {
    page += concat("<p>Before any restore: ", escape(text_of(*lost, "text")), ".</p>\n");
  }
  page += candidates_table(*candidates, text_of(chosen, "best"));
  page += concat("<p class=\"hint\">Chosen on one half of the prompts, with the loss over ", html::number(number_of(chosen, "held_out_rows")),
                 " rows that were not trained on, which may rise by ", html::number(100 * number_of(chosen, "max_loss_increase")),
                 " %. The highest lower bound of recall is the best; of those whose paired interval against it holds 0, the first in the list "
                 "is chosen.</p>\n");
  const auto half = [&](const char* key) {
    const auto found = other->find(key);
    return found != other->end() && found->is_object() ? *found : Json::object();
  };
  page += concat("<p>On the other half, which took no part in the choice: none ", recall_text(half("none")));
  if (name != "none") {
    page += concat(", ", escape(name), " ", recall_text(half("chosen")), ": ", difference_text(*other), " points, McNemar p ",
                   html::p_value(number_of(*other, "p")));
  }
  return page + ". The figures at the top of the page count both halves, and so favour what was chosen.</p>\n";
}

}  // namespace qkr
