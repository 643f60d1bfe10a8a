#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/checkpoint/checkpoint.h"

namespace qkr::test {
namespace {

TrainState state_at(int64_t step) {
  TrainState state;
  state.weights.set("w", at::full({3}, static_cast<double>(step)));
  state.step = step;
  return state;
}

void save_at(const fs::path& dir, int64_t step) { save_checkpoint(checkpoint_path(dir, step), state_at(step)); }

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

using Names = std::vector<std::string>;

TEST(LatestCheckpoint, IsTheHighestStepNotTheLastName) {
  const TmpDir dir;
  EXPECT_FALSE(latest_checkpoint(dir / "none").has_value());
  EXPECT_FALSE(latest_checkpoint(dir.path()).has_value());
  save_at(dir.path(), 999999);
  save_at(dir.path(), 1000000);  // seven digits: sorts before step-999999 by name
  save_at(dir.path(), 200);
  dir.write("step-2000000/model.safetensors", "no progress.json");
  dir.write("step-3000000.partial/progress.json", "{}");
  dir.write("step-x/progress.json", "{}");
  dir.write("step-5/progress.json", "{}");
  dir.write("other", "");
  EXPECT_EQ(latest_checkpoint(dir.path()), dir / "step-1000000");
}

TEST(LatestCheckpoint, NamesAFolderThatIsNone) {
  const TmpDir dir;
  const fs::path file = dir.write("file", "");
  EXPECT_EQ(QKR_MESSAGE_OF(latest_checkpoint(file)), file.string() + ": must be a readable folder of checkpoints, got Not a directory");
}

TEST(PruneCheckpoints, KeepsTheNewest) {
  const TmpDir dir;
  for (const int64_t step : {100, 200, 300, 400}) save_at(dir.path(), step);
  dir.write("step-000150.partial/model.safetensors", "of a killed run");
  dir.write("notes.partial", "not ours");
  prune_checkpoints(dir.path(), 2);
  EXPECT_EQ(names_in(dir.path()), (Names{"notes.partial", "step-000300", "step-000400"}));
  prune_checkpoints(dir.path(), 5);
  EXPECT_EQ(names_in(dir.path()).size(), 3u);
  EXPECT_NE(QKR_MESSAGE_OF(prune_checkpoints(dir.path(), 0)).find("must be at least 1, got 0"), std::string::npos);
  EXPECT_EQ(QKR_MESSAGE_OF(prune_checkpoints(dir / "none", 1)), "");
}

TEST(PruneCheckpoints, DeletesNothingWhileTheNewestIsDamaged) {
  const TmpDir dir;
  for (const int64_t step : {100, 200, 300}) save_at(dir.path(), step);
  fs::resize_file(dir / "step-000300/model.safetensors", 10);
  EXPECT_NE(QKR_MESSAGE_OF(prune_checkpoints(dir.path(), 1)).find("step-000300/model.safetensors: must have"), std::string::npos);
  EXPECT_EQ(names_in(dir.path()), (Names{"step-000100", "step-000200", "step-000300"}));
}

TEST(DropCheckpointsAfter, MakesWayForARunThatResumedFromAnOlderOne) {
  const TmpDir dir;
  for (const int64_t step : {100, 200, 300}) save_at(dir.path(), step);
  dir.write("step-000400/model.safetensors", "what somebody has left of one");
  drop_checkpoints_after(dir.path(), 200);
  EXPECT_EQ(names_in(dir.path()), (Names{"step-000100", "step-000200"}));
  save_at(dir.path(), 300);
  EXPECT_EQ(latest_checkpoint(dir.path()), dir / "step-000300");
}

// What happened to `name` in a watched folder while `action` ran: the inotify masks, in order.
std::vector<uint32_t> events_of(const fs::path& folder, const std::string& name, const std::function<void()>& action) {
  const int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  inotify_add_watch(watch, folder.c_str(), IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE);
  action();
  std::vector<uint32_t> masks;
  alignas(inotify_event) char buffer[1 << 16];
  const ssize_t bytes = read(watch, buffer, sizeof buffer);
  for (ssize_t at = 0; at < bytes;) {
    const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
    if (name == event->name) masks.push_back(event->mask & ~uint32_t{IN_ISDIR});
    at += static_cast<ssize_t>(sizeof(inotify_event)) + event->len;
  }
  close(watch);
  return masks;
}

TEST(KillSafety, ACheckpointComesAndGoesInOneRename) {
  const TmpDir dir;
  EXPECT_EQ(events_of(dir.path(), "step-000001", [&] { save_at(dir.path(), 1); }), std::vector<uint32_t>{IN_MOVED_TO});
  save_at(dir.path(), 2);
  EXPECT_EQ(events_of(dir.path(), "step-000001", [&] { prune_checkpoints(dir.path(), 1); }), std::vector<uint32_t>{IN_MOVED_FROM});
}

// A child saves and prunes without end and is killed at an arbitrary moment: a finished checkpoint is always there and whole.
TEST(KillSafety, AKillAtAnyMomentLeavesAWholeCheckpoint) {
  const TmpDir dir;
  int64_t last = 0;
  for (int round = 0; round < 12; ++round) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int64_t step = last + 1;; ++step) {
        save_at(dir.path(), step);
        prune_checkpoints(dir.path(), 1);
      }
    }
    for (int wait = 0; wait < 2000 && latest_checkpoint(dir.path()).value_or("") <= checkpoint_path(dir.path(), last); ++wait) usleep(1000);
    usleep(static_cast<useconds_t>(1000 + 1777 * round));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);

    const auto latest = latest_checkpoint(dir.path());
    ASSERT_TRUE(latest.has_value());
    TrainState live = state_at(0);
    ASSERT_EQ(QKR_MESSAGE_OF(load_checkpoint(*latest, live)), "");
    EXPECT_GT(live.step, last);
    EXPECT_TRUE(at::equal(live.weights.at("w"), state_at(live.step).weights.at("w")));
    last = live.step;
  }
}

}  // namespace
}  // namespace qkr::test
