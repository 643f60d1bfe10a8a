#include "trainer/model/recompute.h"

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace qkr {
namespace {

struct Body : torch::CustomClassHolder {
  explicit Body(std::function<at::Tensor(const at::Tensor&)> f) : run(std::move(f)) {}
  std::function<at::Tensor(const at::Tensor&)> run;
};

struct Recompute : torch::autograd::Function<Recompute> {
  // `anchor` wants a gradient, so that there is a backward pass where the input wants none.
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const c10::intrusive_ptr<Body>& body, const at::Tensor& input,
                            const at::Tensor& anchor) {
    static_cast<void>(anchor);
    ctx->save_for_backward({input});
    ctx->saved_data["body"] = c10::IValue::make_capsule(body);
    return body->run(input);  // grad mode is off inside a Function's forward
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list grads) {
    const auto body = c10::static_intrusive_pointer_cast<Body>(ctx->saved_data["body"].toCapsule());
    const at::Tensor saved = ctx->get_saved_variables()[0];
    at::Tensor input = saved.detach();
    input.set_requires_grad(saved.requires_grad());
    at::Tensor output;
    {
      const at::AutoGradMode with_graph(true);
      output = body->run(input);
    }
    torch::autograd::backward({output}, {grads[0]});
    return {at::Tensor(), input.grad(), at::Tensor()};
  }
};

}  // namespace

at::Tensor recompute_in_backward(std::function<at::Tensor(const at::Tensor&)> body, const at::Tensor& input, bool leaves_do) {
  if (!input.requires_grad() && !leaves_do) return body(input);
  const at::Tensor anchor = at::empty({0}, input.options()).set_requires_grad(true);
  return Recompute::apply(c10::make_intrusive<Body>(std::move(body)), input, anchor);
}

}  // namespace qkr
