#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "csrc/lightning/launch.h"
#include "ops/lightning_attention.h"
#include "ops/lightning_attention_composite.h"
#include "ops/registration.h"

namespace qkr {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

bool has_kernel(const Tensor& q) { return lightning_has_kernel(q.scalar_type(), q.size(2)); }

// Rows that 16-byte loads can read: x itself if its strides allow it.
Tensor readable(const Tensor& x) {
  const int64_t item = x.element_size();
  const bool fits = x.stride(2) == 1 && x.stride(0) * item % 16 == 0 && x.stride(1) * item % 16 == 0 &&
                    reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  return fits ? x : x.clone(at::MemoryFormat::Contiguous);
}

template <class T>
HeadRows<const T> rows(const Tensor& x) {
  return {static_cast<const T*>(x.const_data_ptr()), x.stride(0), x.stride(1)};
}

template <class T>
HeadRows<T> rows_to_write(const Tensor& x) {
  return {static_cast<T*>(x.mutable_data_ptr()), x.stride(0), x.stride(1)};
}

const float* state_or_null(const Tensor& state) { return state.defined() ? state.const_data_ptr<float>() : nullptr; }

// Dense, or undefined if absent.
Tensor dense_state(const OptionalTensor& state) {
  return state.has_value() && state->defined() ? state->contiguous() : Tensor();
}

// What the parameters of all launches have in common.
template <class Params>
Params common_params(const LightningArguments& a, const Tensor& slopes, const Tensor& cu_seqlens) {
  Params p;
  p.slopes = slopes.const_data_ptr<float>();
  p.cu_seqlens = cu_seqlens.const_data_ptr<int32_t>();
  p.tokens = a.q.size(0);
  p.sequences = static_cast<int>(cu_seqlens.size(0)) - 1;
  p.heads = static_cast<int>(a.q.size(1));
  p.head_dim = static_cast<int>(a.q.size(2));
  p.scale = static_cast<float>(a.scale);
  p.mode = a.accurate ? LightningMode::kHiLo : LightningMode::kBf16;
  return p;
}

template <class T>
LightningResult run(const LightningArguments& a, bool with_state) {
  auto [o, state] = lightning_results(a, with_state);
  const Tensor q = readable(a.q), k = readable(a.k), v = readable(a.v), initial = dense_state(a.initial_state);
  const Tensor slopes = a.slopes.contiguous(), cu_seqlens = a.cu_seqlens.contiguous();
  auto p = common_params<LightningParams<T>>(a, slopes, cu_seqlens);
  p.q = rows<T>(q), p.k = rows<T>(k), p.v = rows<T>(v), p.o = rows_to_write<T>(o);
  p.initial_state = state_or_null(initial);
  p.final_state = with_state ? state.mutable_data_ptr<float>() : nullptr;
  p.kv_heads = static_cast<int>(k.size(1));
  C10_CUDA_CHECK(launch_lightning(p, c10::cuda::getCurrentCUDAStream()));
  return {o, state};
}

template <class T>
LightningGrads run_grad(const Tensor& grad_o, const OptionalTensor& grad_state, const LightningArguments& a) {
  auto [grad_q, grad_k, grad_v, grad_initial] = lightning_grads(a);
  const int64_t heads = a.q.size(1), kv_heads = a.k.size(1);
  const Tensor q = readable(a.q), d_o = readable(grad_o);
  const Tensor k = readable(repeat_heads(a.k, heads)), v = readable(repeat_heads(a.v, heads));
  const Tensor d_k = heads == kv_heads ? grad_k : at::empty(a.q.sizes(), a.q.options());
  const Tensor d_v = heads == kv_heads ? grad_v : at::empty(a.q.sizes(), a.q.options());
  const Tensor initial = dense_state(a.initial_state), d_final = dense_state(grad_state);
  const Tensor slopes = a.slopes.contiguous(), cu_seqlens = a.cu_seqlens.contiguous();
  auto p = common_params<LightningGradParams<T>>(a, slopes, cu_seqlens);
  p.q = rows<T>(q), p.k = rows<T>(k), p.v = rows<T>(v), p.d_o = rows<T>(d_o);
  p.d_q = rows_to_write<T>(grad_q), p.d_k = rows_to_write<T>(d_k), p.d_v = rows_to_write<T>(d_v);
  p.initial_state = state_or_null(initial), p.d_final_state = state_or_null(d_final);
  p.d_initial_state = a.has_initial() ? grad_initial.mutable_data_ptr<float>() : nullptr;
  C10_CUDA_CHECK(launch_lightning_grad(p, c10::cuda::getCurrentCUDAStream()));
  if (heads == kv_heads) return {grad_q, grad_k, grad_v, grad_initial};
  return {grad_q, sum_repeated_heads(d_k, kv_heads), sum_repeated_heads(d_v, kv_heads), grad_initial};
}

template <class T>
Tensor run_step(const LightningStepArguments& a) {
  const Tensor o = at::empty(a.q.sizes(), a.q.options());
  const Tensor q = readable(a.q), k = readable(a.k), v = readable(a.v), slopes = a.slopes.contiguous();
  LightningStepParams<T> p;
  p.q = rows<T>(q), p.k = rows<T>(k), p.v = rows<T>(v), p.o = rows_to_write<T>(o);
  p.slopes = slopes.const_data_ptr<float>();
  p.state = a.state.mutable_data_ptr<float>();
  p.sequences = static_cast<int>(q.size(0));
  p.heads = static_cast<int>(q.size(1)), p.kv_heads = static_cast<int>(k.size(1));
  p.head_dim = static_cast<int>(q.size(2));
  p.scale = static_cast<float>(a.scale);
  C10_CUDA_CHECK(launch_lightning_step(p, c10::cuda::getCurrentCUDAStream()));
  return o;
}

LightningResult cuda(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slopes, const Tensor& cu_seqlens,
                     const OptionalTensor& initial_state, double scale, bool accurate, bool with_state) {
  const LightningArguments a{q, k, v, slopes, cu_seqlens, initial_state, scale, accurate};
  check_lightning(a);
  const c10::cuda::CUDAGuard device(q.device());
  if (!has_kernel(q)) return lightning_composite(a, with_state);
  return q.scalar_type() == at::kBFloat16 ? run<Bf16>(a, with_state) : run<float>(a, with_state);
}

LightningGrads cuda_grad(const Tensor& grad_o, const OptionalTensor& grad_state, const Tensor& q, const Tensor& k,
                         const Tensor& v, const Tensor& slopes, const Tensor& cu_seqlens,
                         const OptionalTensor& initial_state, double scale, bool accurate) {
  const LightningArguments a{q, k, v, slopes, cu_seqlens, initial_state, scale, accurate};
  check_lightning_grad(grad_o, grad_state, a);
  const c10::cuda::CUDAGuard device(q.device());
  if (!has_kernel(q)) return lightning_composite_grad(grad_o, grad_state, a);
  return q.scalar_type() == at::kBFloat16 ? run_grad<Bf16>(grad_o, grad_state, a)
                                          : run_grad<float>(grad_o, grad_state, a);
}

Tensor cuda_step(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slopes, const Tensor& state,
                 double scale) {
  const LightningStepArguments a{q, k, v, slopes, state, scale};
  check_lightning_step(a);
  const c10::cuda::CUDAGuard device(q.device());
  const bool aligned = reinterpret_cast<uintptr_t>(state.const_data_ptr()) % 16 == 0;
  if (!has_kernel(q) || !aligned) return lightning_composite_step(a);
  return q.scalar_type() == at::kBFloat16 ? run_step<Bf16>(a) : run_step<float>(a);
}

}  // namespace
}  // namespace qkr

QKR_LIBRARY_IMPL(CUDA, m) {
  m.impl("lightning_attention", qkr::cuda);
  m.impl("_lightning_attention_bwd", qkr::cuda_grad);
  m.impl("lightning_attention_step_", qkr::cuda_step);
}
