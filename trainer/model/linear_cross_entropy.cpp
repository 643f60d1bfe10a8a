#include "trainer/model/linear_cross_entropy.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace qkr {
namespace {

constexpr int64_t kLogitsPerSlice = int64_t{1} << 27;  // 512 MB of fp32 logits at most

struct LinearCrossEntropy : torch::autograd::Function<LinearCrossEntropy> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& head,
                            const at::Tensor& targets, double scale, bool for_hidden, bool for_head) {
    const at::ScalarType wide = hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor labelled = at::nonzero(targets >= 0).squeeze(1);  // [L]
    const at::Tensor rows = hidden.index_select(0, labelled), wanted = targets.index_select(0, labelled).unsqueeze(1);
    const int64_t slice = std::clamp<int64_t>(kLogitsPerSlice / head.size(0), 1, 8192);
    at::Tensor total = at::zeros({}, hidden.options().dtype(wide));
    at::Tensor grad_rows, grad_head;
    if (for_hidden) grad_rows = at::empty_like(rows);
    if (for_head) grad_head = at::zeros(head.sizes(), head.options().dtype(wide));
    for (int64_t begin = 0; begin < rows.size(0); begin += slice) {
      const int64_t count = std::min(slice, rows.size(0) - begin);
      const at::Tensor x = rows.narrow(0, begin, count), y = wanted.narrow(0, begin, count);
      at::Tensor z = at::linear(x, head).to(wide, false, true);  // [count, V]
      z.sub_(z.amax(1, true));  // small numbers first: z - log_sum of large ones would lose digits
      const at::Tensor log_sum = z.logsumexp(1, true);
      total += (log_sum - z.gather(1, y)).sum() * scale;
      if (!for_hidden && !for_head) continue;
      at::Tensor grad_z = z.sub_(log_sum).exp_();  // softmax in place
      grad_z.scatter_add_(1, y, at::full_like(y, -1, y.options().dtype(wide)));
      const at::Tensor narrow = grad_z.mul_(scale).to(head.scalar_type());
      if (for_hidden) grad_rows.narrow(0, begin, count).copy_(at::matmul(narrow, head));
      if (for_head) grad_head += at::matmul(narrow.t(), x);
    }
    at::Tensor grad_hidden;
    if (for_hidden) grad_hidden = at::zeros_like(hidden).index_copy_(0, labelled, grad_rows);
    if (for_head) grad_head = grad_head.to(head.scalar_type());
    ctx->save_for_backward({grad_hidden, grad_head});  // undefined where nobody wants it
    return total;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto scaled = [&](const at::Tensor& grad) { return grad.defined() ? grad * grads[0].to(grad.scalar_type()) : grad; };
    return {scaled(saved[0]), scaled(saved[1]), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, double scale) {
  const bool grad_mode = at::GradMode::is_enabled();
  return LinearCrossEntropy::apply(hidden, head, targets, scale, grad_mode && hidden.requires_grad(), grad_mode && head.requires_grad());
}

}  // namespace qkr
