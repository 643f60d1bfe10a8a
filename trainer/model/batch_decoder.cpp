#include "trainer/model/batch_decoder.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "trainer/core/error.h"

namespace qkr {

BatchDecoder::BatchDecoder(const Decoder& decoder, int64_t slots, int64_t capacity, bool record)
    : decoder_(decoder), active_(static_cast<size_t>(slots), false) {
  if (slots < 1) fail("decode: slots must be at least 1, got ", slots);
  const c10::InferenceMode no_autograd;
  cache_ = decoder.batch_cache(slots, capacity);
  tokens_ = at::zeros_like(cache_.lengths);
  counted_ = at::zeros_like(cache_.lengths);
  if (!record) return;
  if (!decoder.step_is_recordable()) {
    why_not_ = concat(decoder.device().is_cuda() ? "attention without flash attention needs lengths on the host (" : "only CUDA has them (",
                      decoder.device(), ", ", c10::toString(decoder.dtype()), ")");
    return;
  }
  why_not_.clear();
  recorded_ = record_step(decoder.device(), [this] { launch_step(); }, &why_not_);
}

void BatchDecoder::launch_step() {
  const c10::InferenceMode no_autograd;
  const at::Tensor hidden = decoder_.step(tokens_, cache_);
  tokens_.copy_(decoder_.logits(hidden).argmax(1));
  cache_.lengths.add_(counted_);
}

DecoderCache BatchDecoder::prefill_cache(int64_t slot) const {
  const c10::InferenceMode no_autograd;
  DecoderCache one;
  one.capacity = cache_.capacity;
  for (const LayerCache& layer : cache_.layers) {
    LayerCache& own = one.layers.emplace_back();
    if (!layer.k.defined()) continue;
    own.k = layer.k[slot];
    own.v = layer.v[slot];
  }
  return one;
}

int64_t BatchDecoder::start(int64_t slot, const DecoderCache& cache, const at::Tensor& hidden) {
  const c10::InferenceMode no_autograd;
  if (cache.length >= cache_.capacity) fail_run("decode: a prompt of ", cache.length, " tokens leaves no room in ", cache_.capacity);
  for (size_t i = 0; i < cache.layers.size(); ++i) {
    if (cache_.layers[i].state.defined()) cache_.layers[i].state[slot].copy_(cache.layers[i].state);
  }
  tokens_[slot].copy_(decoder_.logits(hidden).argmax(1)[0]);
  cache_.lengths[slot].fill_(cache.length);
  cache_.host_lengths[static_cast<size_t>(slot)] = cache.length;
  counted_[slot].fill_(1);
  active_[static_cast<size_t>(slot)] = true;
  return tokens_[slot].item<int64_t>();
}

void BatchDecoder::stop(int64_t slot) {
  const c10::InferenceMode no_autograd;
  const size_t index = static_cast<size_t>(slot);
  active_[index] = false;
  counted_[slot].zero_();
  if (cache_.host_lengths[index] < cache_.capacity) return;
  // A waiting slot still writes its next row in every step, which must be one of its own.
  cache_.host_lengths[index] = cache_.capacity - 1;
  cache_.lengths[slot].fill_(cache_.capacity - 1);
}

std::vector<int64_t> BatchDecoder::step() {
  const c10::InferenceMode no_autograd;
  for (size_t b = 0; b < active_.size(); ++b) {
    if (active_[b] && cache_.host_lengths[b] >= cache_.capacity) fail_run("decode: a sequence is longer than its slot of ", cache_.capacity);
  }
  if (recorded_) {
    recorded_->replay();
  } else {
    launch_step();
  }
  for (size_t b = 0; b < active_.size(); ++b) cache_.host_lengths[b] += active_[b] ? 1 : 0;
  const at::Tensor host = tokens_.cpu();
  return {host.const_data_ptr<int64_t>(), host.const_data_ptr<int64_t>() + host.numel()};
}

int64_t slot_bytes(const Architecture& architecture, at::ScalarType dtype, int64_t capacity) {
  const int64_t width = static_cast<int64_t>(c10::elementSize(dtype)), state_width = dtype == at::kDouble ? 8 : 4;
  int64_t bytes = 0;
  for (const Layer& layer : architecture.layers) {
    const SoftmaxShape& s = layer.softmax;
    const LightningShape& l = layer.lightning;
    bytes += layer.mixer == MixerKind::kSoftmax ? 2 * capacity * s.kv_heads * s.head_dim * width : l.heads * l.head_dim * l.head_dim * state_width;
  }
  return bytes;
}

int64_t slots_that_fit(const Decoder& decoder, int64_t capacity, int64_t chunk, int64_t most) {
  const Architecture& a = decoder.architecture();
  const int64_t width = static_cast<int64_t>(c10::elementSize(decoder.dtype()));
  int64_t budget = int64_t{4} << 30;
  if (decoder.device().is_cuda()) {
    using c10::CachingAllocator::StatType;
    const c10::DeviceIndex index = decoder.device().index();
    const auto stats = at::accelerator::getDeviceStats(index);
    const size_t all = static_cast<size_t>(StatType::AGGREGATE);
    const int64_t unused = stats.reserved_bytes[all].current - stats.allocated_bytes[all].current;
    // A block's activations: the residual stream and its norms, q, k, v, o and gates, the MLP; and once more, for fragments.
    const int64_t prefill = chunk * (16 * a.hidden_size + 6 * a.intermediate_size) * width * 2;
    budget = (static_cast<int64_t>(at::accelerator::getMemoryInfo(index).first) + unused) * 85 / 100 - prefill;
  }
  const int64_t logits = 2 * a.vocab_size * width;
  return std::clamp<int64_t>(budget / (slot_bytes(a, decoder.dtype(), capacity) + logits), 1, most);
}

}  // namespace qkr
