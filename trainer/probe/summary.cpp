#include "trainer/probe/summary.h"

#include <algorithm>
#include <map>
#include <utility>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/probe/scoring.h"
#include "trainer/probe/table_text.h"

namespace qkr {
namespace {

std::vector<std::string> stages_of(const std::vector<ItemResult>& results) {
  std::vector<std::string> stages;
  for (const ItemResult& r : results) {
    if (std::find(stages.begin(), stages.end(), r.stage) == stages.end()) stages.push_back(r.stage);
  }
  return stages;
}

// Cells of the two readings are never added up.
std::string cell_name(const ItemResult& r) { return r.reading == "teacher_forced" ? r.task + " teacher-forced" : r.task; }

bool in_cell(const ItemResult& r, const std::string& stage, const std::string& task,
             int64_t length) {
  return r.stage == stage && cell_name(r) == task && r.length == length;
}

CellSummary summarise_cell(const std::vector<ItemResult>& results, const ItemResult& first) {
  CellSummary cell;
  cell.stage = first.stage;
  cell.task = cell_name(first);
  cell.step = first.step;
  cell.length = first.length;
  std::vector<double> shares;
  double seconds = 0;
  for (const ItemResult& r : results) {
    if (!in_cell(r, first.stage, cell.task, first.length)) continue;
    shares.push_back(r.score / 100);
    cell.hits += r.hit ? 1 : 0;
    cell.nulls += r.is_null ? 1 : 0;
    seconds += r.seconds;
  }
  cell.n = static_cast<int64_t>(shares.size());
  cell.rate = static_cast<double>(cell.hits) / static_cast<double>(cell.n);
  cell.interval = wilson(cell.hits, cell.n);
  cell.score = batch_score(shares, cell.nulls).score;
  cell.mean_seconds = seconds / static_cast<double>(cell.n);
  return cell;
}

}  // namespace

std::vector<CellSummary> summarise(const std::vector<ItemResult>& results) {
  std::vector<CellSummary> cells;
  for (const ItemResult& r : results) {
    const bool known = std::any_of(cells.begin(), cells.end(), [&](const CellSummary& c) {
      return in_cell(r, c.stage, c.task, c.length);
    });
    if (!known) cells.push_back(summarise_cell(results, r));
  }
  return cells;
}

std::vector<CellComparison> compare(const std::vector<ItemResult>& results,
                                    const std::string& before, const std::string& after) {
  std::map<std::string, bool> hit_before, hit_after;  // by item id and reading
  const auto key = [](const ItemResult& r) { return r.reading + " " + r.id; };
  for (const ItemResult& r : results) {
    if (r.stage == before) hit_before[key(r)] = r.hit;
    if (r.stage == after) hit_after[key(r)] = r.hit;
  }
  std::vector<CellComparison> cells;
  std::map<std::string, bool> counted;
  for (const ItemResult& r : results) {
    const auto a = hit_after.find(key(r)), b = hit_before.find(key(r));
    if (a == hit_after.end() || b == hit_before.end() || !counted.emplace(key(r), true).second)
      continue;
    auto cell = std::find_if(cells.begin(), cells.end(), [&](const CellComparison& c) {
      return c.task == cell_name(r) && c.length == r.length;
    });
    if (cell == cells.end()) {
      CellComparison fresh;
      fresh.before = before;
      fresh.after = after;
      fresh.task = cell_name(r);
      fresh.length = r.length;
      cell = cells.insert(cells.end(), fresh);
    }
    Paired& counts = cell->counts;
    ++(a->second ? (b->second ? counts.both : counts.only_first)
                 : (b->second ? counts.only_second : counts.neither));
  }
  for (CellComparison& cell : cells) {
    cell.difference = cell.counts.difference();
    cell.interval = newcombe_paired(cell.counts);
    cell.p = mcnemar_exact(cell.counts.only_first, cell.counts.only_second);
  }
  return cells;
}

std::vector<CellComparison> compare_stages(const std::vector<ItemResult>& results) {
  const std::vector<std::string> stages = stages_of(results);
  std::vector<CellComparison> all;
  const auto add = [&](size_t before, size_t after) {
    const std::vector<CellComparison> cells = compare(results, stages[before], stages[after]);
    all.insert(all.end(), cells.begin(), cells.end());
  };
  for (size_t i = 1; i < stages.size(); ++i) {
    add(i - 1, i);
    if (i > 1) add(0, i);
  }
  return all;
}

std::string rate_text(const CellSummary& cell) {
  const std::string rate = percent_text(cell.rate) + "%  [" + percent_text(cell.interval.low) + ", " +
                           percent_text(cell.interval.high) + "]";
  return round_2(100 * cell.rate) == cell.score ? rate : rate + " score " + fixed(cell.score, 2);
}

std::string probe_table(const std::vector<ItemResult>& results) {
  const std::vector<CellSummary> cells = summarise(results);
  const std::vector<std::string> stages = stages_of(results);
  std::vector<std::vector<std::string>> rows;
  if (stages.size() > 1) {
    rows.push_back({"task", "length", "n"});
    rows[0].insert(rows[0].end(), stages.begin(), stages.end());
  }
  const size_t header = rows.size();
  for (const CellSummary& cell : cells) {
    const std::string length = std::to_string(cell.length);
    auto row = std::find_if(rows.begin() + static_cast<std::ptrdiff_t>(header), rows.end(),
                            [&](const auto& r) { return r[0] == cell.task && r[1] == length; });
    if (row == rows.end()) {
      rows.emplace_back(3 + stages.size(), "-");
      row = rows.end() - 1;
      (*row)[0] = cell.task;
      (*row)[1] = length;
      (*row)[2] = "n=" + std::to_string(cell.n);
    } else if ((*row)[2] != "n=" + std::to_string(cell.n)) {
      (*row)[2] += "/" + std::to_string(cell.n);
    }
    const auto stage = std::find(stages.begin(), stages.end(), cell.stage) - stages.begin();
    (*row)[3 + static_cast<size_t>(stage)] = rate_text(cell);
  }
  std::vector<std::vector<std::string>> differences;
  for (const CellComparison& c : compare_stages(results)) {
    differences.push_back({c.task, std::to_string(c.length), c.before + " -> " + c.after,
                           points_text(c.difference) + " points",
                           "[" + points_text(c.interval.low) + ", " + points_text(c.interval.high) + "]",
                           concat("n=", c.counts.n(), " paired"), p_value_text(c.p)});
  }
  return text_columns(rows) + (differences.empty() ? "" : "\n" + text_columns(differences));
}

}  // namespace qkr
