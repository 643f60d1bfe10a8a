#include "trainer/probe/haystack.h"

#include <gtest/gtest.h>

#include "tests/support/tmpdir.h"
#include "trainer/core/digest.h"
#include "trainer/probe/generated_text.h"
#include "trainer/probe/items.h"
#include "trainer/probe/sentences.h"

namespace qkr {
namespace {

// The text with | where a sentence begins.
std::string marked(const std::string& text) {
  std::string out = text;
  std::vector<size_t> starts = plain_sentence_starts(text);
  for (size_t i = starts.size(); i-- > 1;) out.replace(starts[i] - 1, 1, "|");
  return out;
}

TEST(Sentences, HardCases) {
  for (const std::string want :
       {"Mr. Smith left.|He ran.", "He met Dr. No.|Then he left.",
        "Prince N. N. came.|J. R. Tolkien wrote.", "He said \"Stop!\" and left.",
        "\"Stop!\"--he cried.", "St. Petersburg is cold.|In St. He", "Wait... what?|No...|Yes.",
        "What?!|No!!|Yes.", "He left.She stayed. ok",
        "U.S.|Army came.|The U.S.|A new day. at 5 p.m.|He left at 6 a.m. sharp.",
        "e.g. this, i.e. that.|End", "no.|5 is here.|No.|6 too.", "One.|* Two.|[1] Three.",
        "\"I go.\"|She went.|(Really.)|Then", "He saw \"M. Dupont.\"|Then (Dr. No) left.",
        "\u201CGo.\u201D|\u00C9mile went.|Il va. \u00E9t\u00E9.",
        "Gen. X and Prof. Y met.|Mrs. Z too.", "No end", "...|And"}) {
    std::string text = want;
    for (char& c : text) c = c == '|' ? ' ' : c;
    EXPECT_EQ(marked(text), want);
  }
  EXPECT_TRUE(plain_sentence_starts("").empty());
  EXPECT_TRUE(plain_sentence_starts(" ").empty());
}

TEST(Haystack, InsertPositionIsComputedInDoubles) {
  EXPECT_EQ(insert_position(150, 82), 122);  // 150 * 82 / 100 = 123
  EXPECT_EQ(insert_position(300, 41), 122);
  EXPECT_EQ(insert_position(300, 82), 245);
  EXPECT_EQ(insert_position(564, 100), 564);
  int64_t differ = 0, sum = 0;  // both as Python counts them
  for (int64_t n = 0; n <= 32039; ++n) {
    for (const int depth : depth_points()) {
      differ += insert_position(n, depth) != n * depth / 100 ? 1 : 0;
      sum += insert_position(n, depth);
    }
  }
  EXPECT_EQ(differ, 211);
  EXPECT_EQ(sum, 10264703297);
}

TEST(Haystack, NeedleStandsBetweenSentences) {
  const Haystack text("One two.\n\nThree\tfour five. Six.\n",
                      "t");  // ends in white space: an empty last word
  EXPECT_EQ(text.text(), "One two. Three four five. Six. ");
  EXPECT_EQ(text.words(), 7);
  EXPECT_EQ(text.digest(), sha256_hex("One two.\n\nThree\tfour five. Six.\n"));
  EXPECT_EQ(text.with_needle(6, 0, "NEEDLE.").text, " NEEDLE. One two. Three four five. Six.");
  EXPECT_EQ(text.with_needle(6, 100, "NEEDLE.").text, "One two. Three four five. Six. NEEDLE. ");
  const Context middle = text.with_needle(4, 51, "NEEDLE.");
  EXPECT_EQ(middle.text, "One two. NEEDLE. Three four");
  EXPECT_EQ(middle.needle_at, 9u);
  EXPECT_EQ(middle.sentences, 2);
  EXPECT_EQ(middle.insert_at, 1);
  EXPECT_EQ(text.with_needle(1, 51, "N").text, " N One");
  EXPECT_EQ(text.with_needle(7, 100, "N").text,
            "One two. Three four five. Six. N ");  // stripped before
}

TEST(Haystack, ShortTextsAreRepeated) {
  const Haystack text("One two. Three.", "t");
  EXPECT_EQ(text.sentences_in(3), 2);
  EXPECT_EQ(text.sentences_in(4), 3);
  EXPECT_EQ(text.sentences_in(3000), 2000);
  EXPECT_EQ(text.join_words(2, 8), "Three. One two. Three. One two.");
  EXPECT_EQ(text.with_needle(8, 51, "N").text, "One two. Three. N One two. Three. One two.");
  // No sentence ends where the copies meet, so the last and the first words are one.
  const Haystack open("Go. one two", "t");
  EXPECT_EQ(open.sentences_in(9), 1);
  const Haystack half("One. Two", "t");
  EXPECT_EQ(half.with_needle(6, 100, "N").text, "One. Two One. Two One. Two N ");
  EXPECT_EQ(half.sentences_in(6), 4);
  // Text that begins and ends with white space: the empty words of both ends make a wide gap, which
  // joining closes.
  const Haystack gap(" An elk. Two cows. ", "t");
  EXPECT_EQ(gap.words(), 6);
  EXPECT_EQ(gap.with_needle(12, 51, "N").text, "An elk. Two cows. N An elk. Two cows.");
}

TEST(Haystack, RepeatingEqualsWritingTheTextOut) {
  const std::string once = generated_text(200);
  const Haystack repeated(once, "a"), written(once + " " + once + " " + once + " " + once, "b");
  const Haystack trimmed(repeated.text().substr(0, repeated.text().size() - 1), "c");
  const Haystack trimmed_written(trimmed.text() + " " + trimmed.text() + " " + trimmed.text(), "d");
  for (int64_t words = 1; words <= 3 * trimmed.words(); words += 7) {
    for (const int depth : {0, 28, 51, 97, 100}) {
      const Context a = trimmed.with_needle(words, depth, "N"),
                    b = trimmed_written.with_needle(words, depth, "N");
      ASSERT_EQ(a.text, b.text) << words;
      ASSERT_EQ(a.sentences, b.sentences) << words;
    }
  }
}

TEST(Haystack, GivenSentencesMayStartInsideAWord) {
  const Haystack text("\u00C9a \"b!\"--said c. D", "t", {0, 7, 17}, "given");
  EXPECT_EQ(text.rule(), "given");
  EXPECT_EQ(text.with_needle(4, 0, "N").text,
            " N \u00C9a \"b!\" --said c. D");  // joined with a space that was not there
  EXPECT_EQ(text.with_needle(4, 34, "N").text, "\u00C9a \"b!\" N --said c. D");
  EXPECT_EQ(text.with_needle(4, 67, "N").text, "\u00C9a \"b!\" --said c. N D");
}

TEST(Haystack, WrongTextsAreRefused) {
  EXPECT_EQ(QKR_MESSAGE_OF(Haystack("ab\xFF", "h.txt")), "h.txt: byte 2 must be UTF-8 text");
  EXPECT_EQ(QKR_MESSAGE_OF(Haystack(" \n", "h.txt")), "h.txt: must hold words, got none");
  EXPECT_EQ(QKR_MESSAGE_OF(Haystack("a b", "h.txt", {0, 2, 2}, "g")),
            "h.txt: sentence starts must ascend, got 2 after 2");
  EXPECT_EQ(QKR_MESSAGE_OF(Haystack("a b", "h.txt", {2}, "g")),
            "h.txt: the first sentence must start at the first word");
  EXPECT_EQ(QKR_MESSAGE_OF(Haystack("a b", "h.txt", {0, 1}, "g")),
            "h.txt: a sentence must start at a word, got the space at 1");
  EXPECT_EQ(QKR_MESSAGE_OF(Haystack("a b", "h.txt", {0, 9}, "g")),
            "h.txt: a sentence must start before the text's end at 3, got 9");
  EXPECT_EQ(QKR_MESSAGE_OF(Haystack("a b", "h.txt").with_needle(0, 0, "N")),
            "h.txt: num_haystack must be at least 1 word, got 0");
  EXPECT_EQ(QKR_MESSAGE_OF(Haystack("a b", "h.txt").with_needle(1, 101, "N")),
            "h.txt: depth must be in 0 .. 100 percent, got 101");
}

TEST(GeneratedText, IsTheSameEverywhereAndRich) {
  const Haystack text = generated_haystack();
  EXPECT_EQ(text.name(), "generated");
  EXPECT_GE(text.words(), 300000);
  EXPECT_EQ(text.digest(), "c9b18774d9fb0529783a4432b5daa48b4220ff37c204e3eb10fb6fe31a6fba23");
  std::vector<std::string> sentences;
  const std::vector<size_t>& starts = text.sentence_starts();
  for (size_t i = 0; i + 1 < starts.size(); ++i)
    sentences.push_back(text.text().substr(starts[i], starts[i + 1] - starts[i]));
  const size_t all = sentences.size();
  std::sort(sentences.begin(), sentences.end());
  sentences.erase(std::unique(sentences.begin(), sentences.end()), sentences.end());
  EXPECT_GT(all, 20000u);
  EXPECT_GT(sentences.size(), all * 9 / 10);
  EXPECT_EQ(text.text().find_first_of("0123456789"),
            std::string::npos);  // no digits that could be taken for an answer
  EXPECT_EQ(generated_text(5000).compare(0, 4000, generated_text(1000), 0, 4000), 0);
}

}  // namespace
}  // namespace qkr
