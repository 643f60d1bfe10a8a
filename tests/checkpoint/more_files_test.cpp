// Files that hooks add to a checkpoint: in it or not, as a whole.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/core/error.h"
#include "trainer/io/atomic.h"

namespace qkr::test {
namespace {

TrainState state_at(int64_t step) {
  TrainState state;
  state.weights.set("w", at::arange(6));
  state.optim.set("exp_avg.w", at::zeros({6}));
  state.step = step;
  return state;
}

fs::path saved(const TmpDir& dir, int64_t step) {
  const fs::path folder = checkpoint_path(dir.path(), step);
  save_checkpoint(folder, state_at(step), {},
                  [](const fs::path& in) { write_file_atomically(in / "hook-ema.pt", "twelve bytes"); });
  return folder;
}

TEST(CheckpointMoreFiles, AreThereWhenTheCheckpointIs) {
  const TmpDir dir;
  const fs::path folder = saved(dir, 3);
  EXPECT_EQ(read_file(folder / "hook-ema.pt"), "twelve bytes");
  EXPECT_EQ(read_progress(folder).step, 3);
}

TEST(CheckpointMoreFiles, AreMissedAndMeasuredLikeTheOthers) {
  const TmpDir dir;
  const fs::path folder = saved(dir, 3);
  fs::resize_file(folder / "hook-ema.pt", 5);
  EXPECT_EQ(QKR_MESSAGE_OF(read_progress(folder)),
            (folder / "hook-ema.pt").string() + ": must have 12 bytes as progress.json says, got 5");
  fs::remove(folder / "hook-ema.pt");
  EXPECT_EQ(QKR_MESSAGE_OF(read_progress(folder)),
            (folder / "hook-ema.pt").string() + ": must exist in a checkpoint, got no such file");
  EXPECT_NE(QKR_MESSAGE_OF(prune_checkpoints(dir.path(), 1)), "")
      << "an incomplete newest checkpoint must not cost an older one";
}

TEST(CheckpointMoreFiles, ThatFailLeaveNoCheckpoint) {
  const TmpDir dir;
  const fs::path folder = checkpoint_path(dir.path(), 4);
  EXPECT_EQ(
      QKR_MESSAGE_OF(save_checkpoint(folder, state_at(4), {}, [](const fs::path&) { fail_run("the disk is full"); })),
      "the disk is full");
  EXPECT_FALSE(fs::exists(folder));
  EXPECT_FALSE(latest_checkpoint(dir.path()).has_value());
}

}  // namespace
}  // namespace qkr::test
