#include <string>

#include "trainer/model/architecture.h"
#include "trainer/model/weight_names.h"

namespace qkr {
namespace {

using Init = WeightSpec::Init;

// Collects the weights of one block under "model.layers.<i>.".
class BlockSpecs {
 public:
  BlockSpecs(std::vector<WeightSpec>& out, int64_t layer) : out_(out), prefix_(kLayersPrefix + std::to_string(layer) + ".") {}

  void linear(const std::string& name, int64_t out_features, int64_t in_features, bool bias) {
    out_.push_back({prefix_ + name + ".weight", {out_features, in_features}, Init::kNormal});
    if (bias) out_.push_back({prefix_ + name + ".bias", {out_features}, Init::kZeros});
  }
  void norm(const std::string& name, int64_t size) { out_.push_back({prefix_ + name + ".weight", {size}, Init::kOnes}); }

 private:
  std::vector<WeightSpec>& out_;
  std::string prefix_;
};

void softmax_specs(BlockSpecs& block, const SoftmaxShape& s, int64_t hidden) {
  const int64_t q_rows = s.heads * s.head_dim, kv_rows = s.kv_heads * s.head_dim;
  block.linear("self_attn.q_proj", q_rows, hidden, s.qkv_bias);
  block.linear("self_attn.k_proj", kv_rows, hidden, s.qkv_bias);
  block.linear("self_attn.v_proj", kv_rows, hidden, s.qkv_bias);
  if (s.qk_norm) {
    block.norm("self_attn.q_norm", s.head_dim);
    block.norm("self_attn.k_norm", s.head_dim);
  }
  if (s.output_gate) block.linear("self_attn.o_gate", q_rows, hidden, false);
  block.linear("self_attn.o_proj", hidden, q_rows, s.o_bias);
}

void lightning_specs(BlockSpecs& block, const LightningShape& l, int64_t hidden) {
  const int64_t q_rows = l.heads * l.head_dim, kv_rows = l.kv_heads * l.head_dim;
  block.linear("self_attn.q_proj", q_rows, hidden, l.bias);
  block.linear("self_attn.k_proj", kv_rows, hidden, l.bias);
  block.linear("self_attn.v_proj", kv_rows, hidden, l.bias);
  if (l.qk_norm) {
    block.norm("self_attn.q_norm", l.head_dim);
    block.norm("self_attn.k_norm", l.head_dim);
  }
  if (l.output_norm) block.norm("self_attn.o_norm", q_rows);
  if (l.output_gate) block.linear("self_attn.z_proj", q_rows, hidden, l.bias);
  block.linear("self_attn.o_proj", hidden, q_rows, l.bias);
}

}  // namespace

std::vector<WeightSpec> weight_specs(const Architecture& a) {
  std::vector<WeightSpec> specs;
  specs.push_back({kEmbeddingName, {a.vocab_size, a.hidden_size}, Init::kNormal});
  for (size_t i = 0; i < a.layers.size(); ++i) {
    BlockSpecs block(specs, static_cast<int64_t>(i));
    block.norm("input_layernorm", a.hidden_size);
    if (a.layers[i].mixer == MixerKind::kSoftmax) {
      softmax_specs(block, a.layers[i].softmax, a.hidden_size);
    } else {
      lightning_specs(block, a.layers[i].lightning, a.hidden_size);
    }
    block.norm("post_attention_layernorm", a.hidden_size);
    block.linear("mlp.gate_proj", a.intermediate_size, a.hidden_size, a.mlp_bias);
    block.linear("mlp.up_proj", a.intermediate_size, a.hidden_size, a.mlp_bias);
    block.linear("mlp.down_proj", a.hidden_size, a.intermediate_size, a.mlp_bias);
  }
  specs.push_back({kFinalNormName, {a.hidden_size}, Init::kOnes});
  if (!a.tied) specs.push_back({kHeadName, {a.vocab_size, a.hidden_size}, Init::kNormal});
  return specs;
}

int64_t parameter_count(const Architecture& architecture) {
  int64_t count = 0;
  for (const WeightSpec& spec : weight_specs(architecture)) {
    int64_t size = 1;
    for (const int64_t extent : spec.shape) size *= extent;
    count += size;
  }
  return count;
}

}  // namespace qkr
