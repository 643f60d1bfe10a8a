#include <algorithm>
#include <functional>
#include <string_view>
#include <utility>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/report/html.h"
#include "trainer/report/sections.h"

namespace qkr {

namespace {

using html::Cell;
using html::escape;
using Json = nlohmann::ordered_json;

struct Meaning {
  const char* name;
  const char* text;
};
// Of the columns that restore.json is known to have (trainer/restore/restore.h, ops/polar.h); others show under their names.
constexpr Meaning kMeanings[] = {
    {"q_change", "‖Q after − Q before‖ / ‖Q before‖: how far SFT moved W_Q"},
    {"k_change", "the same for W_K"},
    {"residual_before", "‖W before − W after‖ / ‖W after‖: how far a plain copy lies from the tuned weights"},
    {"residual_after", "‖W restored − W after‖ / ‖W after‖: how far the restored weights lie from them"},
    {"rotation", "‖R − I‖ / √d: how far the rotation turns"},
    {"mu", "the pull towards R = I"},
    {"orthogonality", "‖RᵀR − I‖ / √d: 0 for a true rotation"},
    {"skew", "‖H − Hᵀ‖ / ‖M‖ with H = RᵀM: 0 at the optimum"},
    {"cholesky", "whether H was shown to be positive definite, so that R is the best rotation and no other stationary point"},
    {"iterations", "Newton–Schulz steps; 0 where the SVD was the method"},
    {"gap_bound", "proven bound on how much better another rotation could be, relative"},
    {"fallback", "whether the iteration did not certify and the SVD took its place"},
    {"kappa", "condition number of M, an estimate"},
    {"zero_matrix", "whether M was 0, so that R = I"},
    {"rank_deficient", "whether R is not unique; on the null space it is then the choice nearest to I"},
};

struct Column {
  std::string key;
  bool numeric = false;
  bool any = false;  // some layer has a value
};

// Keys and values of a layer; an object inside it (the certificate) gives its own keys.
void walk_layer(const Json& layer, const std::function<void(const std::string&, const Json&)>& visit) {
  for (const auto& [key, value] : layer.items()) {
    if (!value.is_object()) {
      visit(key, value);
      continue;
    }
    for (const auto& [inner, inner_value] : value.items()) visit(inner, inner_value);
  }
}

// 0 for the layer's number, then the known columns as kMeanings lists them, then the others.
size_t rank(const std::string& key) {
  if (key == "layer") return 0;
  const auto found = std::find_if(std::begin(kMeanings), std::end(kMeanings), [&](const Meaning& known) { return key == known.name; });
  return 1 + static_cast<size_t>(found - std::begin(kMeanings));
}

// By rank; unknown ones in the order found. A column that no layer fills is left out.
std::vector<Column> columns_of(const Json& layers) {
  std::vector<Column> columns;
  for (const Json& layer : layers) {
    walk_layer(layer, [&](const std::string& key, const Json& value) {
      auto found = std::find_if(columns.begin(), columns.end(), [&](const Column& column) { return column.key == key; });
      if (found == columns.end()) found = columns.insert(columns.end(), Column{key});
      found->numeric = found->numeric || value.is_number() || value.is_array();
      found->any = found->any || !value.is_null();
    });
  }
  columns.erase(std::remove_if(columns.begin(), columns.end(), [](const Column& column) { return !column.any; }), columns.end());
  std::stable_sort(columns.begin(), columns.end(), [](const Column& a, const Column& b) { return rank(a.key) < rank(b.key); });
  return columns;
}

Cell layer_cell(const Json& value, bool numeric) {
  const html::Shown shown = html::shown(value);
  if (!value.is_array()) return {.html = shown.text, .numeric = numeric, .title = shown.exact};
  return {.html = std::to_string(value.size()), .numeric = numeric, .title = shown.exact.empty() ? shown.text : shown.exact};
}

std::string layer_table(const Json& layers, const std::vector<Column>& columns) {
  html::Table table("Restored layers", "layers");
  std::vector<html::Heading> head;
  for (const Column& column : columns) head.push_back({.html = escape(html::spaced(column.key)), .numeric = column.numeric});
  table.head(head);
  for (const Json& layer : layers) {
    std::vector<Cell> cells;
    for (const Column& column : columns) cells.push_back({.html = "–", .numeric = column.numeric});
    walk_layer(layer, [&](const std::string& key, const Json& value) {
      for (size_t i = 0; i < columns.size(); ++i) {
        if (columns[i].key == key) cells[i] = layer_cell(value, columns[i].numeric);
      }
    });
    table.row(cells);
  }
  return table.html();
}

std::string meanings(const std::vector<Column>& columns) {
  std::string list;
  for (const Column& column : columns) {
    for (const Meaning& meaning : kMeanings) {
      if (column.key == meaning.name) list += html::fact(html::spaced(column.key), meaning.text);
    }
  }
  if (list.empty()) return "";
  return html::details("What the columns mean",
                       concat("<p class=\"hint\">Norms are Frobenius norms; R is the polar factor of M. Hover a number for all its "
                              "digits.</p>\n<dl class=\"facts glossary\">\n", list, "</dl>\n"));
}

std::string text_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

// "1, 3, 8 to 11"
std::string layer_list(const std::vector<int64_t>& layers) {
  std::vector<std::string> runs;
  for (size_t i = 0; i < layers.size();) {
    size_t end = i + 1;
    while (end < layers.size() && layers[end] == layers[end - 1] + 1) ++end;
    runs.push_back(end - i > 2 ? concat(layers[i], " to ", layers[end - 1]) : std::to_string(layers[i]));
    i = end - i > 2 ? end : i + 1;
  }
  return join(runs);
}

// "2 softmax (1, 3) and 2 linear (0, 2)"; older files do not say which kind.
std::string layers_text(const Json& layers) {
  std::vector<std::pair<std::string, std::vector<int64_t>>> kinds;
  for (const Json& layer : layers) {
    const std::string kind = text_of(layer, "type");
    auto found = std::find_if(kinds.begin(), kinds.end(), [&](const auto& known) { return known.first == kind; });
    if (found == kinds.end()) found = kinds.insert(kinds.end(), {kind, {}});
    const auto number = layer.find("layer");
    if (number != layer.end() && number->is_number_integer()) found->second.push_back(number->get<int64_t>());
  }
  std::vector<std::string> texts;
  for (const auto& [kind, numbers] : kinds) {
    texts.push_back(concat(numbers.size(), kind.empty() ? "" : " " + kind, numbers.empty() ? "" : " (" + layer_list(numbers) + ")"));
  }
  return texts.empty() ? "none" : join(texts, " and ");
}

// As qk_restore.parts names them.
std::string parts_text(const std::string& parts) {
  if (parts == "norms") return "the norms’ gains";
  if (parts == "gates") return "the gates";
  if (parts == "mixer") return "all of the mixer";
  std::vector<std::string> weights;
  for (const char part : parts) {
    if (std::string_view("qkvo").find(part) == std::string_view::npos) return parts;
    weights.push_back(concat("W_", static_cast<char>(part - 'a' + 'A')));
  }
  return join(weights, " and ");
}

// "procrustes put back W_Q and W_K in 2 softmax layers (1, 3): 4 tensors."
std::string what_was_done(const Json& restore, const std::string& method, const Json& layers) {
  size_t tensors = 0;
  for (const Json& layer : layers) {
    const auto written = layer.find("written");
    if (written != layer.end() && written->is_array()) tensors += written->size();
  }
  const std::string parts = text_of(restore, "parts");
  if (method.empty() || method == "none" || tensors == 0) return "";
  return concat("<p>", escape(method), " put back ", parts.empty() ? "" : escape(parts_text(parts)) + " in the layers ", parts.empty() ? "the layers " : "",
                escape(layers_text(layers)), ": ", group_digits(static_cast<int64_t>(tensors)), tensors == 1 ? " tensor" : " tensors", ".</p>\n");
}

}  // namespace

std::string restore_section(const RunData& run) {
  if (!run.restore.is_object()) return "";
  std::string list, table, tried, done;
  for (const auto& [key, value] : run.restore.items()) {
    if (key == "auto" && value.is_object()) {
      tried = auto_part(value);
    } else if (key == "parts" && value.is_string()) {
      list += html::fact("parts", escape(parts_text(value.get<std::string>())));
    } else if (key != "layers" || !value.is_array()) {
      if (key != "restored_sha256" || run.method != "none") list += html::json_fact(key, value);  // of nothing
    } else {
      Json layers = Json::array();
      for (const Json& layer : value) {
        if (layer.is_object()) layers.push_back(layer);
      }
      list += html::fact("layers", escape(layers_text(layers)));
      done = what_was_done(run.restore, text_of(run.restore, "method"), layers);
      const std::vector<Column> columns = columns_of(layers);
      if (!columns.empty()) table = layer_table(layers, columns) + meanings(columns);
    }
  }
  const std::string nothing =
      run.method == "none" && tried.empty() ? "<p>Nothing was put back: the method is none. What SFT changed was measured all the same.</p>\n" : "";
  return concat("<section aria-labelledby=\"restored\">\n<h2 id=\"restored\">What was restored</h2>\n", nothing, done, tried,
                "<dl class=\"facts\">\n", list, "</dl>\n", table, "</section>\n");
}

}  // namespace qkr
