#include "trainer/core/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace qkr {
namespace {

TEST(ForAll, DoesEachPieceOnce) {
  for (const size_t count : {0, 1, 2, 1000}) {
    std::vector<std::atomic<int>> times(count);
    for_all(count, [&](size_t i) { ++times[i]; });
    for (const std::atomic<int>& n : times) EXPECT_EQ(n, 1);
  }
}

TEST(ForAll, ThrowsTheErrorOfTheLowestIndex) {
  for (int again = 0; again < 20; ++again) {
    std::string message;
    try {
      for_all(50, [](size_t i) {
        if (i == 3) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // later than that of 4
        if (i >= 3) throw std::runtime_error(std::to_string(i));
      });
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
    EXPECT_EQ(message, "3");
  }
}

}  // namespace
}  // namespace qkr
