// Small templates in the manner of well-known ones, against Jinja2's renderings (tests/data/chat/make_families.py).
#include <gtest/gtest.h>

#include "tests/hf/support.h"
#include "tests/support/tmpdir.h"
#include "trainer/hf/chat_template.h"

namespace qkr::test {
namespace {

// The members of the array `text`, each as its own text.
std::vector<std::string> elements(std::string_view text) {
  std::vector<std::string> found;
  size_t begin = 1;
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    if (depth == (c == ']' ? 0 : 1) && (c == ',' || c == ']')) {
      found.emplace_back(text.substr(begin, i - begin));
      begin = i + 1;
    }
  }
  return found;
}

std::string marked(const std::string& text, const std::vector<Span>& spans) {
  std::string out;
  size_t at = 0;
  for (const Span& span : spans) {
    out += text.substr(at, span.begin - at) + "⟪" + text.substr(span.begin, span.end - span.begin) + "⟫";
    at = span.end;
  }
  return out + text.substr(at);
}

class Families : public testing::TestWithParam<std::string> {};

TEST_P(Families, TextAndSpansAreJinjas) {
  int count = 0;
  for (const Row& row : read_rows(data_dir() / "families.jsonl")) {
    if (row.json["family"] != GetParam()) continue;
    const ChatTemplate chat_template(row.json["template"].get<std::string>(), row.raw("special"), GetParam());
    for (const std::string& text : elements(raw_member(row.text, "cases"))) {
      const Row one{text, nlohmann::json::parse(text)};
      SCOPED_TRACE(one.json["case"].get<std::string>() + (one.json["ask"] ? ", asked" : ""));
      RenderOptions options;
      options.add_generation_prompt = one.json["ask"];
      Rendered rendered;
      const std::string message =
          QKR_MESSAGE_OF(rendered = chat_template.render(one.raw("messages"), row.raw("tools"), options));
      EXPECT_EQ(message, "");
      std::vector<Span> want;
      for (const auto& span : one.json["spans"]) want.push_back({span[0], span[1]});
      EXPECT_EQ(marked(rendered.text, rendered.assistant_spans), marked(one.json["text"].get<std::string>(), want));
      ++count;
    }
  }
  EXPECT_GE(count, 10);
}

INSTANTIATE_TEST_SUITE_P(All, Families,
                         testing::Values("chatml", "llama3", "llama2", "gemma", "zephyr", "phi", "vicuna",
                                         "no-prompt", "think", "collect", "tools", "tagged", "tagged-collect"),
                         [](const auto& family) {
                           std::string name = family.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

TEST(Expressions, MeanWhatJinjaMeans) {
  int count = 0;
  for (const Row& row : read_rows(data_dir() / "expressions.jsonl")) {
    const std::string source = row.json["template"];
    SCOPED_TRACE(source);
    const ChatTemplate chat_template(source, "{}", "expression");
    RenderOptions options;
    options.want_spans = false;
    options.allow_dropped = true;
    options.extra_json = row.raw("extra");
    std::string text;
    EXPECT_EQ(QKR_MESSAGE_OF(text = chat_template.render(row.raw("messages"), "null", options).text), "");
    EXPECT_EQ(text, row.json["text"].get<std::string>());
    ++count;
  }
  EXPECT_GE(count, 25);
}

}  // namespace
}  // namespace qkr::test
