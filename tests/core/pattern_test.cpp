#include "trainer/core/pattern.h"

#include <gtest/gtest.h>

namespace qkr {
namespace {

const std::vector<std::string> kNames = {"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight",
                                         "model.layers.1.self_attn.q_proj.weight", "model.layers.12.self_attn.q_proj.weight", "model.norm.weight"};

TEST(Pattern, StarsCrossDotsAndBracketsHoldOneCharacter) {
  EXPECT_TRUE(matches_pattern("*", "a.b"));
  EXPECT_TRUE(matches_pattern("model.*.weight", "model.layers.0.q.weight"));
  EXPECT_FALSE(matches_pattern("model.*.weight", "model.layers.0.q.weight.more"));
  EXPECT_TRUE(matches_pattern("layers.?.q", "layers.7.q"));
  EXPECT_FALSE(matches_pattern("layers.?.q", "layers.17.q"));
  EXPECT_TRUE(matches_pattern("layers.[0-5].*", "layers.5.q"));
  EXPECT_FALSE(matches_pattern("layers.[0-5].*", "layers.6.q"));
  EXPECT_FALSE(matches_pattern("layers.[0-5].*", "layers.12.q"));
  EXPECT_FALSE(matches_pattern("", "a"));
  EXPECT_TRUE(matches_any({"b", "a*"}, "abc"));
  EXPECT_FALSE(matches_any({}, "abc"));
}

TEST(Pattern, ThatMatchesNothingGetsWhatWouldHave) {
  EXPECT_EQ(near_matches("model.embed_tokens", kNames), "; did you mean model.embed_tokens*?");  // the module, as other trainers name it
  EXPECT_EQ(near_matches("q_proj.weight", kNames), "; did you mean *q_proj.weight?");
  EXPECT_EQ(near_matches("layers.12", kNames), "; did you mean *layers.12*?");
  EXPECT_EQ(near_matches("model.layer.1?.*", kNames), "; did you mean model.layers.12.self_attn.q_proj.weight?");
  EXPECT_EQ(near_matches("model.layer.[01].*", kNames),
            "; did you mean model.layers.0.self_attn.q_proj.weight, model.layers.0.mlp.up_proj.weight or model.layers.1.self_attn.q_proj.weight?");
  EXPECT_EQ(near_matches("model.nrom.*", kNames), "; did you mean model.norm.weight?");
  EXPECT_EQ(near_matches("vision_tower.blocks", kNames), "");
  EXPECT_EQ(near_matches("", kNames), "");
  EXPECT_EQ(near_matches("x", {}), "");
}

}  // namespace
}  // namespace qkr
