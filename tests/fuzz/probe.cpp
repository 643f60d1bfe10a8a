// Rows of results and texts that needles are hidden in: trainer/probe/record.h, comparison.h, haystack.h.
#include <filesystem>

#include "tests/fuzz/target.h"
#include "tests/support/byte_codec.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/io/json_lines.h"
#include "trainer/probe/auto_samples.h"
#include "trainer/probe/comparison.h"
#include "trainer/probe/haystack.h"
#include "trainer/probe/record.h"
#include "trainer/probe/summary.h"
#include "trainer/probe/teacher_forced.h"

namespace qkr::fuzz {
namespace {

std::string row_of(const char* stage, int64_t index, bool hit, const char* reading) {
  ItemResult row;
  row.stage = stage;
  row.id = concat("niah_single_1/1024/", index, "#0f3a9c11");
  row.task = "niah_single_1";
  row.length = 1024;
  row.index = index;
  row.depth = 12.5;
  row.outputs = {"7654321"};
  row.value = row.prediction = "7654321";
  row.score = hit ? 100 : 0;
  row.hit = hit;
  row.mode = "base";
  row.reading = reading;
  row.haystack = "noise";
  row.max_new_tokens = 128;
  row.model = "abc";
  return to_json(row).dump() + "\n";
}

// The file's rows, or what of them came before a refusal.
std::vector<ItemResult> read_results(const std::string& file) {
  std::vector<ItemResult> rows;
  accepts({file + ":"}, [&] {
    JsonLinesReader reader(file, {.allow_torn_end = true});
    while (reader.next()) {
      rows.push_back(
          item_result_from_json(nlohmann::ordered_json::parse(reader.text()), concat(file, ":", reader.line())));
      const auto again = to_json(rows.back());
      require(to_json(item_result_from_json(again, "again")) == again, "a result is read as it was written");
    }
  });
  return rows;
}

void run_results(std::string_view input) {
  std::string text[2];
  for (const Part& part : parts_of(input)) text[part.name == "first" ? 0 : 1] = part.text;
  const std::string first = write_scratch("first.jsonl", text[0]), second = write_scratch("second.jsonl", text[1]);
  const NamedResults a{first, read_results(first)}, b{second, read_results(second)};
  for (const NamedResults* side : {&a, &b}) {
    probe_table(side->results);
    agreement_table(side->results);
    ProbeConfigSection config;
    config.lengths = {1024};
    cell_needs(config, side->results);
  }
  if (!a.results.empty() && !b.results.empty()) accepts({first, second}, [&] { comparison_table(a, b); });
  ProbeOptions options;
  options.model = "abc";
  accepts({first}, [&] { items_left({}, a.results, options, first); });
}

void run_haystack(std::string_view input) {
  accepts({"book.txt:", "probe.lengths"}, [&] {
    const Haystack haystack(input, "book.txt");
    require(is_utf8(haystack.text()), "the text is UTF-8");
    ProbeConfigSection config;
    config.max_new_tokens = 16;
    for (const NeedleTask task : {NeedleTask::kSingle2, NeedleTask::kSingle3}) {
      for (const NeedleItem& item : draw_cell(config, task, 1200, 0, 2, &haystack, test::byte_codec())) {
        require(item.prompt_tokens + config.max_new_tokens <= item.length, "a prompt fits into its length");
        require(item.prompt.find(item.value) != std::string::npos, "a prompt holds its needle");
      }
    }
  });
}

}  // namespace

Target results_target() {
  Target target;
  target.name = "results";
  std::string start, end;
  for (int64_t i = 0; i < 3; ++i) {
    start += row_of("start", i, true, "generate") + row_of("start", i, i > 0, "teacher_forced");
    end += row_of("end", i, i == 1, "generate");
  }
  target.seeds = {"=== first\n" + start + "=== second\n" + end, "=== first\n" + end + "=== second\n" + start};
  target.words = {"\"teacher_forced\"", "\"outputs\":[]", "\"outputs\":null", "\"stage\":\"a\\nb\"", "\"depth\":1e300"};
  target.run = run_results;
  return target;
}

Target haystack_target() {
  Target target;
  target.name = "haystack";
  target.seeds = {
      "It was late. The river rose, and nobody said a word! \"Why?\" she asked. Dr. Brown left.\n\nThen it was over.",
      "One.\u00a0Two\u2003three? \u201CFour.\u201D Five\u2026 😀 Six.", "word"};
  target.words = {". ", "! ", "?\" ", "Mr. ", "\u201D", "\u00a0", "\u3000", "\u2028", "a. ", ".\n"};
  target.run = run_haystack;
  return target;
}

}  // namespace qkr::fuzz
