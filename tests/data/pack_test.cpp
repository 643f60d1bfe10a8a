// First-fit by decreasing length against a plain loop over all rows, and the shuffle against its golden order.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>

#include "tests/support/tmpdir.h"
#include "trainer/data/dataset.h"

namespace qkr {
namespace {

// The definition: samples by decreasing length (ties by index), each into the first row that has room.
std::vector<Row> plain_first_fit(const std::vector<int64_t>& lengths, int64_t max_length) {
  std::vector<int64_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
  std::vector<Row> rows;
  std::vector<int64_t> room;
  for (const int64_t i : order) {
    size_t row = 0;
    while (row < rows.size() && room[row] < lengths[i]) ++row;
    if (row == rows.size()) {
      rows.emplace_back();
      room.push_back(max_length);
    }
    rows[row].push_back(i);
    room[row] -= lengths[i];
  }
  return rows;
}

TEST(Pack, Golden) {
  EXPECT_EQ(pack_rows({3, 7, 5, 2, 5, 8, 1, 10}, 10, true),
            (std::vector<Row>{{7}, {5, 3}, {1, 0}, {2, 4}, {6}}));
  EXPECT_EQ(pack_rows({4, 4, 4, 4}, 8, true), (std::vector<Row>{{0, 1}, {2, 3}}));
  EXPECT_EQ(pack_rows({3, 7, 5}, 10, false), (std::vector<Row>{{0}, {1}, {2}}));
  EXPECT_TRUE(pack_rows({}, 10, true).empty());
  EXPECT_EQ(pack_rows({1}, 2, true), (std::vector<Row>{{0}}));
}

TEST(Pack, EqualsThePlainLoopOnRandomLengths) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    const int64_t max_length = 2 + static_cast<int64_t>(random() % 200);
    std::vector<int64_t> lengths(random() % 80);
    for (int64_t& length : lengths) length = 1 + static_cast<int64_t>(random() % max_length);
    const std::vector<Row> rows = pack_rows(lengths, max_length, true);
    ASSERT_EQ(rows, plain_first_fit(lengths, max_length));
    std::multiset<int64_t> seen;
    for (const Row& row : rows) {
      int64_t tokens = 0;
      for (const int64_t i : row) {
        tokens += lengths[i];
        seen.insert(i);
      }
      ASSERT_LE(tokens, max_length);
    }
    ASSERT_EQ(seen.size(), lengths.size());
    ASSERT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), lengths.size());
  }
}

TEST(Pack, AMillionSamples) {
  std::mt19937 random(1);
  std::vector<int64_t> lengths(1000000);
  int64_t total = 0;
  for (int64_t& length : lengths) total += length = 1 + static_cast<int64_t>(random() % 8192);
  const std::vector<Row> rows = pack_rows(lengths, 8192, true);  // a quadratic one would not come back
  EXPECT_LT(static_cast<double>(rows.size()) * 8192, 1.01 * static_cast<double>(total));
}

TEST(Pack, RefusesWhatFitsNoRow) {
  EXPECT_EQ(QKR_MESSAGE_OF(pack_rows({3, 11}, 10, true)), "sample 1: must have 1 to 10 tokens to be packed, got 11");
  EXPECT_EQ(QKR_MESSAGE_OF(pack_rows({0}, 10, false)), "sample 0: must have 1 to 10 tokens to be packed, got 0");
}

// Worked out by another program from the same definition.
TEST(EpochOrder, Golden) {
  EXPECT_EQ(epoch_order(10, 1, 0, true), (std::vector<int64_t>{7, 8, 9, 5, 4, 3, 1, 6, 2, 0}));
  EXPECT_EQ(epoch_order(10, 1, 1, true), (std::vector<int64_t>{3, 8, 0, 1, 7, 2, 4, 9, 5, 6}));
  EXPECT_EQ(epoch_order(10, 2, 0, true), (std::vector<int64_t>{4, 1, 8, 0, 3, 6, 5, 2, 9, 7}));
  EXPECT_EQ(epoch_order(7, 0, 0, true), (std::vector<int64_t>{0, 4, 3, 5, 1, 6, 2}));
}

TEST(EpochOrder, IsAPermutationAndUniform) {
  EXPECT_EQ(epoch_order(5, 1, 3, false), (std::vector<int64_t>{0, 1, 2, 3, 4}));
  EXPECT_TRUE(epoch_order(0, 1, 0, true).empty());
  std::vector<int64_t> first_at(6, 0);
  for (int64_t epoch = 0; epoch < 6000; ++epoch) {
    std::vector<int64_t> order = epoch_order(6, 9, epoch, true);
    ++first_at[std::find(order.begin(), order.end(), 0) - order.begin()];
    std::sort(order.begin(), order.end());
    ASSERT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3, 4, 5}));
  }
  for (const int64_t count : first_at) EXPECT_NEAR(count, 1000, 150);  // five standard deviations
}

}  // namespace
}  // namespace qkr
