// Rows so long that their beginning is enough to refuse them.
#include <gtest/gtest.h>

#include "tests/data/support.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/data/row.h"

namespace qkr {
namespace {

using test::Rows;

const std::string kShort = "{\"text\":\"short\"}\n";

// A text of one token a byte, longer than kLargeText by `more` bytes: its beginning is cut within the two bytes of the last \u00e9.
std::string long_row(size_t more) { return "{\"text\":\"" + std::string(kLargeText - 1, 'x') + "\u00e9" + std::string(more - 1, 'y') + "\"}\n"; }

TEST(LargeRow, IsDroppedByItsBeginning) {
  Rows rows(long_row(100) + kShort, "text");
  const Dataset data = rows.load();
  EXPECT_EQ(data.samples().size(), 1u);
  EXPECT_EQ(data.report().over_length_dropped, 1);
  EXPECT_EQ(data.report().longest, static_cast<int64_t>(kLargeText));  // the end-of-text token in the place of the cut character
  EXPECT_TRUE(data.report().longest_goes_on);
  EXPECT_EQ(data.report().examples, std::vector<std::string>{rows.file() + ":1: more than " + group_digits(kLargeText) + " tokens, dropped"});
  rows.config.over_length = "error";
  EXPECT_EQ(rows.error(), "a.jsonl:1: must be at most data.max_length (100) tokens long, got more than 1048576; set data.over_length to drop or "
                          "truncate, or raise data.max_length");
}

TEST(LargeRow, IsReadWholeWhereTheBeginningDoesNotDecide) {
  Rows rows(long_row(100) + kShort, "text");
  const int64_t whole = static_cast<int64_t>(kLargeText) + 100 + 1;
  rows.config.max_length = static_cast<int64_t>(kLargeText) / 4 * 3;
  const Dataset dropped = rows.load();
  EXPECT_EQ(dropped.report().longest, whole);
  EXPECT_FALSE(dropped.report().longest_goes_on);
  EXPECT_EQ(dropped.report().over_length_dropped, 1);
  rows.config.max_length = 100;
  rows.config.over_length = "truncate";
  const Dataset cut = rows.load();
  EXPECT_EQ(cut.report().longest, whole);
  ASSERT_EQ(cut.samples().size(), 2u);
  EXPECT_EQ(cut.samples()[0].size(), 100);
  EXPECT_EQ(cut.samples()[0].ids.back(), test::kEos);
}

}  // namespace
}  // namespace qkr
