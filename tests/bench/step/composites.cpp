#include "tests/bench/step/composites.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include "ops/embedding.h"
#include "ops/gates.h"
#include "ops/lightning_attention_composite.h"
#include "ops/qk_norm_rope.h"
#include "ops/rms_norm_halves.h"

namespace qkr::bench {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

LightningResult lightning(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slopes,
                          const Tensor& cu_seqlens, const OptionalTensor& initial_state, double scale, bool accurate,
                          bool with_state) {
  return lightning_composite({q, k, v, slopes, cu_seqlens, initial_state, scale, accurate}, with_state);
}

LightningGrads lightning_grad(const Tensor& grad_o, const OptionalTensor& grad_state, const Tensor& q, const Tensor& k,
                              const Tensor& v, const Tensor& slopes, const Tensor& cu_seqlens,
                              const OptionalTensor& initial_state, double scale, bool accurate) {
  return lightning_composite_grad(grad_o, grad_state, {q, k, v, slopes, cu_seqlens, initial_state, scale, accurate});
}

// An override is what is wanted here: the dispatcher need not warn of it.
class Silence : public c10::WarningHandler {
 public:
  void process(const c10::Warning&) override {}
};

}  // namespace

Composites::Composites() : library_(torch::Library::IMPL, "qk_restore", c10::DispatchKey::CUDA, __FILE__, __LINE__) {
  Silence silence;
  const c10::WarningUtils::WarningHandlerGuard quiet(&silence);
  library_.impl("_rms_norm_fwd", rms_norm_fwd_composite);
  library_.impl("_rms_norm_bwd", rms_norm_bwd_composite);
  library_.impl("qk_norm_rope", qk_norm_rope_composite);
  library_.impl("_qk_norm_rope_bwd", qk_norm_rope_bwd_composite);
  library_.impl("qk_norm_rope_pair", qk_norm_rope_pair_composite);
  library_.impl("_qk_norm_rope_pair_bwd", qk_norm_rope_pair_bwd_composite);
  library_.impl("swiglu", gate_composite<GateKind::kSwiglu>);
  library_.impl("_swiglu_bwd", gate_bwd_composite<GateKind::kSwiglu>);
  library_.impl("sigmoid_gate", gate_composite<GateKind::kSigmoid>);
  library_.impl("_sigmoid_gate_bwd", gate_bwd_composite<GateKind::kSigmoid>);
  library_.impl("embedding_grad", embedding_grad_composite);
  library_.impl("lightning_attention", lightning);
  library_.impl("_lightning_attention_bwd", lightning_grad);
}

}  // namespace qkr::bench
