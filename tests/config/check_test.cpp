// Contradictions between keys, and the combinations that are allowed because they merely do nothing.
#include <gtest/gtest.h>

#include "tests/support/tmpdir.h"
#include "trainer/config/parse.h"

namespace qkr {
namespace {

const std::vector<std::string> kLeast = {"model.path=base", "data.train=[a.jsonl]", "output=runs/x"};

std::string error_of(std::vector<std::string> overrides) {
  overrides.insert(overrides.begin(), kLeast.begin(), kLeast.end());
  return QKR_MESSAGE_OF(parse_config("", "c.yaml", overrides));
}

TEST(Check, MicroBatchHoldsARow) {
  EXPECT_EQ(error_of({"train.micro_batch_tokens=4096"}),
            "--set train.micro_batch_tokens=4096: train.micro_batch_tokens: must be 0 or >= data.max_length (8192), so that a "
            "row fits; got 4096");
  EXPECT_EQ(error_of({"train.micro_batch_tokens=8192"}), "");
}

TEST(Check, WarmupIsAShareOrWholeSteps) {
  EXPECT_EQ(error_of({"optim.warmup=1.5"}),
            "--set optim.warmup=1.5: optim.warmup: must be a whole number of steps where it is not a share below 1, got 1.5");
  EXPECT_EQ(error_of({"optim.warmup=0.99"}), "");
  EXPECT_EQ(error_of({"optim.warmup=1"}), "");
}

TEST(Check, FieldNames) {
  EXPECT_NE(error_of({"data.format=prompt_completion", "data.completion_field=prompt"})
                .find("data.completion_field: must differ from data.prompt_field, got 'prompt' for both"),
            std::string::npos);
  EXPECT_NE(error_of({"data.format=prompt_completion", "data.prompt_field="}).find("data.prompt_field: must name a field"),
            std::string::npos);
  EXPECT_NE(error_of({"data.format=text", "data.text_field="}).find("data.text_field: must name a field"), std::string::npos);
  EXPECT_NE(error_of({"data.format=prompt_completion", "data.prompt_template=chat", "data.separator=x"})
                .find("data.separator: must be empty where data.prompt_template is chat"),
            std::string::npos);
  EXPECT_EQ(error_of({"data.format=messages", "data.prompt_field="}), "");
}

TEST(Check, ProbeHasWhatItsTasksNeed) {
  EXPECT_EQ(error_of({"probe.haystack="}), "");  // no lengths: no probe
  EXPECT_EQ(error_of({"probe.lengths=[1024]"}), "");  // without a haystack, text is generated
  EXPECT_EQ(error_of({"probe.lengths=[1024]", "probe.tasks=[niah_single_1]"}), "");
  EXPECT_EQ(error_of({"probe.lengths=[1024]", "probe.haystack=h.txt"}), "");
  EXPECT_NE(error_of({"probe.lengths=[1024]", "probe.tasks=[]"}).find("probe.tasks: must name a task"), std::string::npos);
  EXPECT_NE(error_of({"probe.lengths=[1024, 128]", "probe.haystack=h.txt"})
                .find("probe.lengths: must be > probe.max_new_tokens (128), which they include; got 128"),
            std::string::npos);
  EXPECT_NE(error_of({"probe.lengths=[1000000000000]"}).find("<= 16777216"), std::string::npos);  // a text of that length would take days
  EXPECT_NE(error_of({"probe.lengths=[1024, 1024]"}).find("must not hold a length twice"), std::string::npos);
  EXPECT_NE(error_of({"probe.tasks=[niah_single_1, niah_single_1]"}).find("must not name a task twice"), std::string::npos);
}

TEST(Check, OutputIsNotTheModel) {
  EXPECT_NE(error_of({"output=./base/"}).find("output: must not be model.path, got './base/' for both"), std::string::npos);
}

TEST(Check, WhatMerelyDoesNothingIsAllowed) {
  EXPECT_EQ(error_of({"train.freeze_qk=true", "qk_restore.method=plain"}), "");
  EXPECT_EQ(error_of({"qk_restore.method=none", "probe.at=[restored]", "probe.lengths=[1024]", "probe.haystack=h"}), "");
}

TEST(Check, ChecksAStructMadeByHand) {
  RunConfig config;
  EXPECT_EQ(QKR_MESSAGE_OF(check_config(config)), "");
  config.train.micro_batch_tokens = 2;
  config.optim.warmup = 2.5;
  const std::string text = QKR_MESSAGE_OF(check_config(config));
  EXPECT_EQ(text.rfind("train.micro_batch_tokens: must be 0", 0), 0u) << text;
  EXPECT_NE(text.find("\noptim.warmup: "), std::string::npos);
}

}  // namespace
}  // namespace qkr
