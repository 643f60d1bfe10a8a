// qk_restore.at: every N in a whole run: the model at its end has the bytes of an undisturbed run's after a resume, and a resume
// cannot mix it with another way of restoring.
#include <gtest/gtest.h>

#include "tests/e2e/small_run.h"
#include "tests/support/fixtures.h"

namespace qkr::test {
namespace {

std::vector<std::string> every_command(const TmpDir& folder, const std::string& method, std::vector<std::string> more = {}) {
  more.insert(more.begin(), {"--qk-restore", method, "--set", "qk_restore.at=every 2", "save_sft_model=true"});
  return small_command(folder, more);
}

TEST(RestoreEveryRun, ResumesToTheSameBytes) {
  TmpDir folder;
  const fs::path out = folder / "out";
  const Outcome whole = run_program(every_command(folder, "plain"));
  ASSERT_EQ(whole.code, 0) << whole.err;
  EXPECT_NE(whole.out.find("restore plain: W_Q and W_K of 2 softmax layers, which SFT had moved by "), std::string::npos) << whole.out;
  const std::vector<nlohmann::json> rows = read_rows(out / "restores.jsonl");
  ASSERT_EQ(rows.size(), 2u);  // after steps 2 and 4; the end's is in restore.json
  EXPECT_EQ(rows[1]["step"], 4);
  const std::string tuned = read_file(out / "model-sft" / "model.safetensors"), model = read_file(out / "model" / "model.safetensors");
  ASSERT_EQ(plain_run().outcome.code, 0);
  EXPECT_NE(tuned, read_file(plain_run().out() / "model-sft" / "model.safetensors")) << "a restore on the way changes the way";

  fs::remove_all(out / "checkpoints" / "step-000006");
  const Outcome resumed = run_program(every_command(folder, "plain", {"--resume"}));  // from step 4, which was a restoring one
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_TRUE(read_file(out / "model-sft" / "model.safetensors") == tuned);
  EXPECT_TRUE(read_file(out / "model" / "model.safetensors") == model);
  EXPECT_EQ(read_rows(out / "restores.jsonl"), rows);

  const Outcome other = run_program(every_command(folder, "q", {"--resume"}));
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("identity.qk_restore.method must be 'q' as in this run, got 'plain'"), std::string::npos) << other.err;
  const Outcome at_end = run_program(small_command(folder, {"--resume", "--qk-restore", "plain"}));
  EXPECT_EQ(at_end.code, 2);
  EXPECT_NE(at_end.err.find("identity.qk_restore.at must be 'end' as in this run, got '"), std::string::npos) << at_end.err;
}

}  // namespace
}  // namespace qkr::test
