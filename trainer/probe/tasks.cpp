#include "trainer/probe/tasks.h"

#include <string>

#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr {
namespace {

// In the order of NeedleTask.
constexpr NeedleTaskTraits kTraits[] = {
    {"niah_single_1", HaystackKind::kNoise},
    {"niah_single_2", HaystackKind::kText},
    {"niah_single_3", HaystackKind::kText, 1, 1, 1, false, true},
    {"niah_multikey_1", HaystackKind::kText, 4, 1, 1},
    {"niah_multikey_2", HaystackKind::kNeedles, 1, 1, 1},
    {"niah_multikey_3", HaystackKind::kNeedles, 1, 1, 1, true, true},
    {"niah_multivalue", HaystackKind::kText, 1, 4, 1},
    {"niah_multiquery", HaystackKind::kText, 4, 1, 4},
    {"vt", HaystackKind::kNoise, 1, kChainLength, 1, false, false, 30},
};

}  // namespace

const NeedleTaskTraits& traits_of(NeedleTask task) { return kTraits[static_cast<size_t>(task)]; }

std::string_view needle_task_name(NeedleTask task) { return traits_of(task).name; }

const std::vector<NeedleTask>& needle_tasks() {
  static const std::vector<NeedleTask> tasks = [] {
    std::vector<NeedleTask> all;
    for (size_t i = 0; i < std::size(kTraits); ++i) all.push_back(static_cast<NeedleTask>(i));
    return all;
  }();
  return tasks;
}

NeedleTask parse_needle_task(std::string_view name) {
  std::vector<std::string> known;
  for (const NeedleTask task : needle_tasks()) {
    if (name == needle_task_name(task)) return task;
    known.emplace_back(needle_task_name(task));
  }
  fail("probe.tasks: must be of ", join(known), ", got ", quoted(name), did_you_mean(name, known));
}

}  // namespace qkr
