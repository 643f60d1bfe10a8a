// A hook's state, to a checkpoint's folder and back.
#include "trainer/checkpoint/hook_state.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"
#include "trainer/io/atomic.h"

namespace qkr::test {
namespace {

TEST(HookState, ComesBackToTheBit) {
  const TmpDir dir;
  HookState state;
  const at::Tensor odd = at::full({3}, 0x7FC12345, at::kInt);  // a NaN with a payload
  state.tensors.set("nan", odd.view(at::kFloat));
  state.tensors.set("mean", at::scalar_tensor(0.1, at::kDouble));
  state.tensors.set("turned", at::arange(6).to(at::kBFloat16).view({2, 3}).t());
  state.tensors.set("none", at::zeros({0, 4}, at::kLong));
  state.texts = {{"phase", "wärmer\n\"2\""}, {"", ""}};
  write_hook_state(dir.path(), "ema", state);
  const HookState back = read_hook_state(dir.path(), "ema");
  EXPECT_EQ(back.texts, state.texts);
  ASSERT_EQ(back.tensors.size(), 4u);
  EXPECT_TRUE(at::equal(back.tensors.at("nan").view(at::kInt), odd));
  for (const char* name : {"mean", "turned", "none"}) {
    EXPECT_TRUE(at::equal(back.tensors.at(name), state.tensors.at(name))) << name;
    EXPECT_EQ(back.tensors.at(name).scalar_type(), state.tensors.at(name).scalar_type()) << name;
  }
  at::Tensor(back.tensors.at("turned")).zero_();  // its own memory, not the file's
  EXPECT_TRUE(at::equal(read_hook_state(dir.path(), "ema").tensors.at("turned"), state.tensors.at("turned")));
}

TEST(HookState, MayBeEmpty) {
  const TmpDir dir;
  write_hook_state(dir.path(), "idle", {});
  const HookState back = read_hook_state(dir.path(), "idle");
  EXPECT_TRUE(back.tensors.empty() && back.texts.empty() && back.files.empty());
}

TEST(HookState, FilesOfItsOwnLieBesideItAndAreNoOtherHooks) {
  const TmpDir dir;
  HookState state;
  state.files["drift.pt"].write = [](const fs::path& file) { write_file_atomically(file, "module"); };
  write_hook_state(dir.path(), "a", state);
  write_hook_state(dir.path(), "a-b", {});
  const HookState back = read_hook_state(dir.path(), "a");
  ASSERT_EQ(back.files.size(), 1u);
  EXPECT_EQ(back.files.at("drift.pt").path, dir / "hook-a.drift.pt");
  EXPECT_EQ(read_file(back.files.at("drift.pt").path), "module");
  EXPECT_TRUE(read_hook_state(dir.path(), "a-b").files.empty());
}

TEST(HookState, FaultsAreNamed) {
  const TmpDir dir;
  const std::string file = (dir / "hook-ema.safetensors").string();
  EXPECT_EQ(QKR_MESSAGE_OF(read_hook_state(dir.path(), "ema")),
            file + ": the state of hook 'ema' is needed to resume, got no file");
  HookState state;
  state.texts["bytes"] = "\xFF";
  EXPECT_EQ(QKR_MESSAGE_OF(write_hook_state(dir.path(), "ema", state)),
            file + ": text 'bytes' must be UTF-8 (bytes of another kind go into a tensor), got '\\xff'");
  HookState complex;
  complex.tensors.set("z", at::zeros({2}, at::kComplexFloat));
  EXPECT_NE(QKR_MESSAGE_OF(write_hook_state(dir.path(), "ema", complex)), "");
  EXPECT_FALSE(fs::exists(file));
}

}  // namespace
}  // namespace qkr::test
