#include "trainer/core/named_tensors.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

TEST(NamedTensors, KeepsTheOrderOfFirstSet) {
  NamedTensors tensors;
  EXPECT_TRUE(tensors.empty());
  tensors.set("z", at::zeros({1}));
  tensors.set("a", at::ones({2}));
  tensors.set("z", at::full({3}, 7));  // replaced in its place
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"z", "a"}));
  EXPECT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors.at("z").numel(), 3);
  EXPECT_EQ(tensors.at("a").numel(), 2);
}

TEST(NamedTensors, SharesStorage) {
  const at::Tensor live = at::zeros({2});
  NamedTensors tensors;
  tensors.set("w", live);
  at::Tensor(tensors.at("w")).fill_(5);
  EXPECT_EQ(live[1].item<double>(), 5);
}

TEST(NamedTensors, NamesWhatIsMissing) {
  NamedTensors tensors;
  tensors.set("w", at::zeros({1}));
  EXPECT_TRUE(tensors.contains("w"));
  EXPECT_EQ(tensors.find("v"), nullptr);
  EXPECT_EQ(tensors.find("w"), &tensors.at("w"));
  EXPECT_EQ(QKR_MESSAGE_OF(tensors.at("v")), "tensor v is missing");
}

TEST(Error, CarriesItsExitCode) {
  try {
    fail("x.json", ": must be ", 3);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    EXPECT_STREQ(error.what(), "x.json: must be 3");
  }
  try {
    fail_run("disk full");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kRunFailed);
  }
}

}  // namespace
}  // namespace qkr
