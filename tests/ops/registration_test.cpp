// Who may enter the dispatcher. That a refused load is an error in Python and no crash: tests/python/test_load.py.
#include "ops/registration.h"

#include <gtest/gtest.h>
#include <torch/headeronly/version.h>

namespace qkr {
namespace {

constexpr uint64_t version(uint64_t major, uint64_t minor, uint64_t patch) { return major << 56 | minor << 48 | patch << 40; }

TEST(LoadRefusal, NoneForTheSameMinorVersion) {
  EXPECT_EQ(load_refusal("lib.so", version(2, 11, 0), version(2, 11, 3), false), "");
  EXPECT_EQ(load_refusal("lib.so", TORCH_ABI_VERSION, TORCH_ABI_VERSION, false), "");
}

TEST(LoadRefusal, NamesBothVersions) {
  for (const uint64_t running : {version(2, 10, 0), version(2, 12, 1), version(3, 11, 0)}) {
    const std::string text = load_refusal("lib.so", version(2, 11, 0), running, false);
    EXPECT_EQ(text.find("lib.so: must run with the torch that it was built for, 2.11.0, got "), 0U) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos);
  }
  EXPECT_NE(load_refusal("lib.so", version(2, 11, 0), version(2, 12, 1), false).find("got 2.12.1;"), std::string::npos);
}

TEST(LoadRefusal, NamesASecondCopy) {
  EXPECT_NE(load_refusal("lib.so", TORCH_ABI_VERSION, TORCH_ABI_VERSION, true).find("second copy"), std::string::npos);
}

TEST(LoadRefusal, ThisProcessHasTheOperators) {
  EXPECT_TRUE(ops_may_register());
  EXPECT_TRUE(c10::Dispatcher::singleton().findSchema({"qk_restore::rms_norm", ""}).has_value());
}

}  // namespace
}  // namespace qkr
