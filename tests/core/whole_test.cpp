#include "trainer/core/whole.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qkr {
namespace {

TEST(Whole, IsDefinedForEveryDouble) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max(), kLeast = std::numeric_limits<int64_t>::min();
  EXPECT_EQ(whole(2.9), 2);
  EXPECT_EQ(whole(-2.9), -2);
  EXPECT_EQ(whole(9007199254740993.0), 9007199254740992);
  EXPECT_EQ(whole(0x1p63), kMost);
  EXPECT_EQ(whole(std::nextafter(0x1p63, 0)), kMost - 1023);
  EXPECT_EQ(whole(-0x1p63), kLeast);
  EXPECT_EQ(whole(1e300), kMost);
  EXPECT_EQ(whole(-INFINITY), kLeast);
  EXPECT_EQ(whole(NAN), 0);
}

}  // namespace
}  // namespace qkr
