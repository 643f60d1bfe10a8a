#include "trainer/probe/summary.h"

#include <algorithm>
#include <map>
#include <utility>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/probe/scoring.h"

namespace qkr {
namespace {

std::vector<std::string> stages_of(const std::vector<ItemResult>& results) {
  std::vector<std::string> stages;
  for (const ItemResult& r : results) {
    if (std::find(stages.begin(), stages.end(), r.stage) == stages.end()) stages.push_back(r.stage);
  }
  return stages;
}

bool in_cell(const ItemResult& r, const std::string& stage, const std::string& task,
             int64_t length) {
  return r.stage == stage && r.task == task && r.length == length;
}

CellSummary summarise_cell(const std::vector<ItemResult>& results, const ItemResult& first) {
  CellSummary cell;
  cell.stage = first.stage;
  cell.task = first.task;
  cell.step = first.step;
  cell.length = first.length;
  std::vector<double> shares;
  double seconds = 0;
  for (const ItemResult& r : results) {
    if (!in_cell(r, first.stage, first.task, first.length)) continue;
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

// Text columns: each as wide as its widest entry, the last without padding; two blanks between.
// Entry 1 is a number: to the right.
std::string columns(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string pad(widths[i] - row[i].size(), ' ');
      line += (i > 0 ? "  " : "") + (i == 1 ? pad + row[i] : row[i] + pad);
    }
    while (!line.empty() && line.back() == ' ') line.pop_back();
    text += line + "\n";
  }
  return text;
}

std::string percent(double share) { return fixed(share * 100, 1); }

std::string points(double difference) {
  const std::string text = percent(difference);
  return (text[0] == '-' ? "" : "+") + text;
}

std::string p_text(double p) { return p < 0.001 ? "p<0.001" : "p=" + fixed(p, 3); }

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
  std::map<std::string, bool> hit_before, hit_after;  // by item id
  for (const ItemResult& r : results) {
    if (r.stage == before) hit_before[r.id] = r.hit;
    if (r.stage == after) hit_after[r.id] = r.hit;
  }
  std::vector<CellComparison> cells;
  std::map<std::string, bool> counted;
  for (const ItemResult& r : results) {
    const auto a = hit_after.find(r.id), b = hit_before.find(r.id);
    if (a == hit_after.end() || b == hit_before.end() || !counted.emplace(r.id, true).second)
      continue;
    auto cell = std::find_if(cells.begin(), cells.end(), [&](const CellComparison& c) {
      return c.task == r.task && c.length == r.length;
    });
    if (cell == cells.end()) {
      CellComparison fresh;
      fresh.before = before;
      fresh.after = after;
      fresh.task = r.task;
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
  const std::string rate = percent(cell.rate) + "%  [" + percent(cell.interval.low) + ", " +
                           percent(cell.interval.high) + "]";
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
                           points(c.difference) + " points",
                           "[" + points(c.interval.low) + ", " + points(c.interval.high) + "]",
                           concat("n=", c.counts.n(), " paired"), p_text(c.p)});
  }
  return columns(rows) + (differences.empty() ? "" : "\n" + columns(differences));
}

}  // namespace qkr
