#include "trainer/hooks/script_save.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/serialization/import.h>

#include "tests/io/support.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/hooks/script_export.h"

namespace qkr::test {
namespace {

torch::jit::Module module_of(int64_t numbers) {
  torch::jit::Module module("m");
  module.register_buffer("b", at::arange(numbers, at::kDouble));
  return module;
}

TEST(SaveModule, IsWhatTorchReads) {
  const TmpDir dir;
  save_module(module_of(1000), dir / "m.pt");
  EXPECT_TRUE(at::equal(torch::jit::load((dir / "m.pt").string()).attr("b").toTensor(), at::arange(1000, at::kDouble)));
}

// At whatever byte the disk ends.
TEST(SaveModule, AFullDiskIsAnErrorAndLeavesTheOlderFile) {
  const TmpDir dir;
  const fs::path file = dir.write("m.pt", "older");
  for (const uint64_t room : {0, 100, 5000, 70'000}) {
    std::string message;
    {
      const FileSizeLimit disk(room);
      message = QKR_MESSAGE_OF(save_module(module_of(10'000), file));
    }
    EXPECT_EQ(message.rfind(file.string() + ": must be written, got File too large", 0), 0u) << message;
    EXPECT_EQ(read_file(file), "older");
  }
  EXPECT_FALSE(fs::exists(dir / "m.pt.partial"));
}

TEST(SaveModule, SoIsOneUnderTheExportedModules) {
  const TmpDir dir;
  const FileSizeLimit disk(300);
  EXPECT_NE(QKR_MESSAGE_OF(export_scripts(dir / "modules")).find("restore.pt: must be written, got File too large"),
            std::string::npos);
}

}  // namespace
}  // namespace qkr::test
