#include "trainer/data/dataset.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "trainer/core/digest.h"
#include "trainer/core/error.h"
#include "trainer/core/parallel.h"
#include "trainer/core/text.h"
#include "trainer/data/row.h"
#include "trainer/io/mapped_file.h"

namespace qkr {
namespace {

constexpr size_t kExamples = 5;  // dropped or cut rows that are named; the rest is counted

struct Line {
  int64_t file = 0, number = 0;
  std::string_view text;
};

// The rows of one file: lines that are not blank, at most `limit` in all (0: no limit).
void find_lines(const MappedFile& map, int64_t file, int64_t limit, std::vector<Line>& lines) {
  const std::string_view bytes = map.bytes();
  int64_t number = 0;
  for (size_t begin = 0; begin < bytes.size() && (limit == 0 || static_cast<int64_t>(lines.size()) < limit);) {
    const size_t newline = std::min(bytes.find('\n', begin), bytes.size());
    const std::string_view text = bytes.substr(begin, newline - begin);
    ++number;
    if (text.find_first_not_of(" \t\r") != std::string_view::npos) lines.push_back({file, number, text});
    begin = newline + 1;
  }
}

struct ReadRow {
  Sample sample;
  bool beginning = false;  // the row is longer than the sample, and too long
};

// Applies over_length and no_label to the rows, in order, and keeps count.
class Filter {
 public:
  Filter(const DataConfigSection& config, DataReport& report) : config_(config), report_(report) {}

  // True if the sample stays.
  bool keep(ReadRow& row) {
    Sample& sample = row.sample;
    ++report_.rows_read;
    const int64_t length = sample.size();
    report_.longest = std::max(report_.longest, length);
    report_.longest_goes_on = report_.longest_goes_on || row.beginning;
    shortest_ = std::min(shortest_, length);
    const std::string place = concat(config_.train[static_cast<size_t>(sample.file)], ":", sample.line);
    const bool is_long = length > config_.max_length;
    if (is_long && !fit(row, place)) return false;
    const int64_t labels = count_labels(sample);
    if (labels == 0) return drop_unlabelled(place, is_long);
    ++report_.rows_kept;
    report_.over_length_truncated += is_long ? 1 : 0;
    if (is_long) example(concat(place, ": ", group_digits(length), " tokens, cut to ", group_digits(sample.size())));
    report_.tokens += sample.size();
    report_.trained_tokens += labels;
    return true;
  }

  // Error if nothing is left of the rows.
  void finish() const {
    if (report_.rows_kept > 0) return;
    if (report_.over_length_dropped == report_.rows_read) {
      fail("data.train: every row is longer than data.max_length (", config_.max_length, "): ", group_digits(report_.rows_read),
           " rows of ", group_digits(shortest_), " to ", report_.longest_goes_on ? "more than " : "", group_digits(report_.longest),
           " tokens; raise data.max_length or set data.over_length: truncate");
    }
    fail("data.train: no row is left of ", group_digits(report_.rows_read), ": ", group_digits(report_.over_length_dropped),
         " longer than data.max_length (", config_.max_length, "), ", group_digits(report_.no_label_dropped),
         " without a trained token");
  }

 private:
  bool fit(ReadRow& row, const std::string& place) {
    Sample& sample = row.sample;
    const char* more_than = row.beginning ? "more than " : "";
    if (config_.over_length == "error") {
      fail(place, ": must be at most data.max_length (", config_.max_length, ") tokens long, got ", more_than, sample.size(),
           "; set data.over_length to drop or truncate, or raise data.max_length");
    }
    if (config_.over_length == "drop") {
      ++report_.over_length_dropped;
      example(concat(place, ": ", more_than, group_digits(sample.size()), " tokens, dropped"));
      return false;
    }
    truncate_sample(sample, config_.max_length);
    return true;
  }

  bool drop_unlabelled(const std::string& place, bool was_cut) {
    const std::string within = was_cut ? concat(" within data.max_length (", config_.max_length, ")") : "";
    if (config_.no_label == "error") {
      fail(place, ": must have a trained token", within, ", got none; set data.no_label: drop to leave such rows out");
    }
    ++report_.no_label_dropped;
    example(concat(place, ": no trained token", within, ", dropped"));
    return false;
  }

  void example(std::string text) {
    if (report_.examples.size() < kExamples) report_.examples.push_back(std::move(text));
  }

  const DataConfigSection& config_;
  DataReport& report_;
  int64_t shortest_ = std::numeric_limits<int64_t>::max();
};

std::string digest_of(const std::vector<Sample>& samples) {
  Sha256 sha;
  for (const Sample& sample : samples) {
    const int64_t size = sample.size();
    sha.add(&size, sizeof size);
    sha.add(sample.ids.data(), sample.ids.size() * sizeof(int32_t));
    sha.add(sample.trained.data(), sample.trained.size());
  }
  return sha.hex();
}

// Every line as a sample, in order.
std::vector<ReadRow> read_rows(const DataConfigSection& config, const TextModel& text, const std::vector<Line>& lines, const LoadWatch& watch) {
  const auto file_of = [&](const Line& line) -> const std::string& { return config.train[static_cast<size_t>(line.file)]; };
  std::vector<int64_t> bytes;
  for (const Line& line : lines) bytes.push_back(static_cast<int64_t>(line.text.size()));
  LoadWatcher watcher(watch, std::move(bytes), [&](size_t i) { return concat(file_of(lines[i]), ":", lines[i].number); });
  std::vector<ReadRow> rows(lines.size());
  for_all(lines.size(), [&](size_t i) {
    const Line& line = lines[i];
    watcher.begin(i);
    Sample& sample = rows[i].sample;
    sample = read_row(config, text, line.text, file_of(line), line.number, &rows[i].beginning);
    sample.file = line.file;
    sample.line = line.number;
    watcher.end(i);
  });
  return rows;
}

}  // namespace

Dataset Dataset::load(const DataConfigSection& config, const TextModel& text, const LoadWatch& watch) {
  check_text_model(config, text);
  std::vector<std::unique_ptr<MappedFile>> maps;  // all of them first: an absent file is an error before any work
  for (const std::string& path : config.train) maps.push_back(std::make_unique<MappedFile>(path));
  std::vector<Line> lines;
  for (size_t file = 0; file < maps.size(); ++file) {
    const size_t before = lines.size();
    find_lines(*maps[file], static_cast<int64_t>(file), config.limit, lines);
    const bool full = config.limit > 0 && static_cast<int64_t>(lines.size()) >= config.limit;
    if (lines.size() == before && !full) fail(config.train[file], ": must have at least one row, got none");
  }

  std::vector<ReadRow> rows = read_rows(config, text, lines, watch);
  Dataset dataset;
  Filter filter(config, dataset.report_);
  for (ReadRow& row : rows) {
    if (filter.keep(row)) dataset.samples_.push_back(std::move(row.sample));
  }
  filter.finish();
  dataset.digest_ = digest_of(dataset.samples_);
  return dataset;
}

}  // namespace qkr
