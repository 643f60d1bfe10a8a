#include "tests/bench/decode/measure.h"

#include <ATen/DeviceAccelerator.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <map>
#include <memory>

#include "ops/few_rows_linear.h"
#include "tests/bench/decode/random_model.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/model/batch_decoder.h"
#include "trainer/model/prefix_prefill.h"
#include "trainer/model/softmax_attention.h"
#include "trainer/model/weight_names.h"

namespace qkr::bench {
namespace {

void say(const std::string& line) { std::cout << line << std::endl; }

void wait(at::Device device) {
  if (device.is_cuda()) at::accelerator::synchronizeDevice(device.index());
}

double seconds_of(at::Device device, const std::function<void()>& work) {
  wait(device);
  const auto begin = std::chrono::steady_clock::now();
  work();
  wait(device);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Seconds of one call, over enough of them that the clocks are those of sustained work.
double sustained(at::Device device, const std::function<void()>& work) {
  work();
  const double once = seconds_of(device, work);
  const int calls = static_cast<int>(std::clamp(0.2 / std::max(once, 1e-6), 1.0, 400.0));
  return seconds_of(device, [&] {
           for (int i = 0; i < calls; ++i) work();
         }) / calls;
}

std::vector<int32_t> random_ids(const Decoder& decoder, int64_t count) {
  const at::Tensor ids = at::randint(decoder.architecture().vocab_size, {count}, at::kInt);
  return {ids.const_data_ptr<int32_t>(), ids.const_data_ptr<int32_t>() + count};
}

double peak_gb(at::Device device) {
  if (!device.is_cuda()) return 0;
  const auto stats = at::accelerator::getDeviceStats(device.index());
  return static_cast<double>(stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak) / 1e9;
}

// [rows, in] x [out, in]^T of all the model's projections: shape -> how many.
std::map<std::pair<int64_t, int64_t>, int64_t> projections(const Decoder& decoder) {
  std::map<std::pair<int64_t, int64_t>, int64_t> shapes;
  for (const auto& [name, weight] : decoder.weights()) {
    if (weight.dim() == 2 && name != kEmbeddingName && name != kHeadName) ++shapes[{weight.size(0), weight.size(1)}];
  }
  return shapes;
}

double product_seconds(const Decoder& decoder, int64_t tokens, int64_t chunk) {
  const at::TensorOptions options = at::TensorOptions(decoder.device()).dtype(decoder.dtype());
  double seconds = 0;
  for (const int64_t rows : {std::min(chunk, tokens), tokens % chunk}) {
    if (rows == 0) continue;
    const double times = rows == chunk ? static_cast<double>(tokens / chunk) : 1;
    for (const auto& [shape, count] : projections(decoder)) {
      const at::Tensor x = at::randn({rows, shape.second}, options), w = at::randn({shape.first, shape.second}, options);
      const at::Tensor y = at::empty({rows, shape.first}, options), wt = w.t();
      at::Tensor out = y;
      seconds += times * static_cast<double>(count) * sustained(decoder.device(), [&] { at::mm_out(out, x, wt); });
    }
    if (tokens < chunk) break;
  }
  return seconds;
}

double attention_seconds(const Decoder& decoder, int64_t tokens, int64_t chunk) {
  const at::TensorOptions options = at::TensorOptions(decoder.device()).dtype(decoder.dtype());
  const std::vector<int64_t> layers = decoder.architecture().softmax_layers();
  if (layers.empty()) return 0;
  const SoftmaxShape& s = decoder.architecture().layers[static_cast<size_t>(layers[0])].softmax;
  LayerCache cache;
  cache.k = at::randn({tokens, s.kv_heads, s.head_dim}, options);
  cache.v = at::randn({tokens, s.kv_heads, s.head_dim}, options);
  double seconds = 0;
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t count = std::min(chunk, tokens - begin);
    const at::Tensor q = at::randn({count, s.heads, s.head_dim}, options), k = at::randn({count, s.kv_heads, s.head_dim}, options);
    const auto attend = [&] { attend_cached(q, k, k, cache, begin, tokens, s.window); };
    attend();
    seconds += seconds_of(decoder.device(), attend) * static_cast<double>(layers.size());
  }
  return seconds;
}

struct Floors {
  double products = 0, attention = 0;  // seconds
  double sum() const { return products + attention; }
};

Floors floors_of(const Decoder& decoder, int64_t tokens, int64_t chunk) {
  return {product_seconds(decoder, tokens, chunk), attention_seconds(decoder, tokens, chunk)};
}

std::string floors_text(const Floors& floors) {
  return concat("products alone ", fixed(floors.products, 3), " s, attention alone ", fixed(floors.attention, 3), " s");
}

void measure_prefill(const DecodeBench& bench, const Decoder& decoder) {
  const int64_t chunk = bench.chunk > 0 ? bench.chunk : prefill_chunk_of(bench.tokens, 32768);
  if (bench.floors_alone) {
    const Floors floors = floors_of(decoder, bench.tokens, chunk);
    say(concat("of a prefill of ", bench.tokens, " tokens in chunks of ", chunk, ": ", floors_text(floors), ", together ", fixed(floors.sum(), 3), " s, ",
               fixed(static_cast<double>(bench.tokens) / floors.sum(), 0), " tokens a second"));
    return;
  }
  const std::vector<int32_t> ids = random_ids(decoder, bench.tokens);
  PrefixPrefill prefill(decoder);
  DecoderCache cache;
  cache.capacity = bench.tokens + 128;
  double seconds[2];
  for (double& time : seconds) {
    cache.length = 0;
    for (LayerCache& layer : cache.layers) layer.state = at::Tensor();
    time = seconds_of(bench.device, [&] { prefill.run(ids, {0, chunk, 0, {}}, cache); });
  }
  const double peak = peak_gb(bench.device);
  const Floors floors = floors_of(decoder, bench.tokens, chunk);
  say(concat("prefill of ", bench.tokens, " tokens in chunks of ", chunk, ": ", fixed(seconds[1], 3), " s (the first time ", fixed(seconds[0], 3),
             "), ", fixed(static_cast<double>(bench.tokens) / seconds[1], 0), " tokens a second; ", floors_text(floors), "; ratio ",
             fixed(seconds[1] / floors.sum(), 3), "; peak ", fixed(peak, 1), " GB"));
  if (bench.tokens < 65536) return;
  BatchDecoder batch(decoder, 1, bench.tokens + 256, true);
  DecoderCache slot = batch.prefill_cache(0);
  batch.start(0, slot, prefill.run(ids, {0, chunk, 0, {}}, slot));
  for (int i = 0; i < 4; ++i) batch.step();
  const double step = seconds_of(bench.device, [&] {
    for (int64_t i = 0; i < bench.steps; ++i) batch.step();
  });
  say(concat("decode behind ", bench.tokens, " tokens, batch 1: ", fixed(1e3 * step / static_cast<double>(bench.steps), 3), " ms a token",
             batch.why_not_recorded().empty() ? ", recorded" : ", launched: " + batch.why_not_recorded()));
}

// A slot that holds `length` tokens of noise.
void fill_slot(BatchDecoder& batch, const Decoder& decoder, int64_t slot, int64_t length) {
  DecoderCache cache = batch.prefill_cache(slot);
  for (size_t i = 0; i < cache.layers.size(); ++i) {
    LayerCache& layer = cache.layers[i];
    if (layer.k.defined()) {
      layer.k.normal_();
      layer.v.normal_();
    } else {
      const LightningShape& s = decoder.architecture().layers[i].lightning;
      layer.state = at::randn({s.heads, s.head_dim, s.head_dim}, at::TensorOptions(decoder.device()).dtype(at::kFloat));
    }
  }
  cache.length = length;
  batch.start(slot, cache, at::randn({1, decoder.architecture().hidden_size}, at::TensorOptions(decoder.device()).dtype(decoder.dtype())));
}

struct Decoded {
  double ms = 0;
  std::vector<std::vector<int64_t>> tokens;
  std::string why_not;
};

Decoded decode(const DecodeBench& bench, const Decoder& decoder, int64_t slots, bool record) {
  BatchDecoder batch(decoder, slots, bench.prompt + bench.steps + 64, record);
  at::manual_seed(5);
  for (int64_t slot = 0; slot < slots; ++slot) fill_slot(batch, decoder, slot, bench.prompt - slot % 7);
  Decoded made;
  made.why_not = batch.why_not_recorded();
  for (int i = 0; i < 8; ++i) made.tokens.push_back(batch.step());
  const int64_t steps = record ? bench.steps : std::min<int64_t>(bench.steps, 8);
  made.ms = 1e3 / static_cast<double>(steps) * seconds_of(bench.device, [&] {
              for (int64_t i = 0; i < steps; ++i) made.tokens.push_back(batch.step());
            });
  return made;
}

// All projections of a step and the head, recorded: what is left of a step's time when everything small is taken away.
double projection_ms(const DecodeBench& bench, const Decoder& decoder, int64_t rows) {
  std::map<std::string, std::vector<at::Tensor>> groups;  // by layer and by what they read
  for (const auto& [name, weight] : decoder.weights()) {
    if (weight.dim() != 2) continue;
    const std::string last = name.substr(name.find_last_of('.', name.size() - 8) + 1), layer = name.substr(0, name.find_last_of('.', name.size() - 8));
    const bool alone = last == "o_proj.weight" || last == "down_proj.weight";
    groups[layer + (alone ? last : "")].push_back(weight);
  }
  std::map<int64_t, at::Tensor> x;
  for (const auto& [name, weights] : groups) x[weights[0].size(1)] = at::randn({rows, weights[0].size(1)}, weights[0].options());
  const auto work = [&] {
    for (const auto& [name, weights] : groups) few_rows_linear(x[weights[0].size(1)], weights);
  };
  std::string why_not;
  const std::unique_ptr<RecordedStep> recorded = record_step(bench.device, work, &why_not);
  return 1e3 * sustained(bench.device, [&] { recorded ? recorded->replay() : work(); });
}

}  // namespace

void run(const DecodeBench& bench) {
  const c10::InferenceMode no_autograd;
  at::globalContext().setDeterministicAlgorithms(true, false);  // as the programs do
  at::globalContext().setDeterministicFillUninitializedMemory(false);
  at::manual_seed(1);
  const Decoder decoder = random_model(bench.model, bench.device);
  int64_t bytes = 0;
  for (const auto& [name, weight] : decoder.weights()) bytes += static_cast<int64_t>(weight.nbytes());
  const at::Tensor from = at::randint(256, {std::min<int64_t>(bytes / 4, 1 << 30)}, at::TensorOptions(bench.device).dtype(at::kByte));
  at::Tensor to = at::empty_like(from);
  const double copy = 2.0 * static_cast<double>(from.numel()) / sustained(bench.device, [&] { to.copy_(from); });
  to = at::Tensor();
  say(concat(bench.model, ": ", fixed(static_cast<double>(bytes) / 1e9, 2), " GB of weights, a copy runs at ", fixed(copy / 1e12, 2),
             " TB/s: reading them takes ", fixed(1e3 * static_cast<double>(bytes) / copy, 3), " ms"));
  if (bench.tokens > 0) measure_prefill(bench, decoder);
  for (const int64_t slots : bench.batches) {
    const Decoded launched = decode(bench, decoder, slots, false), recorded = decode(bench, decoder, slots, true);
    for (size_t i = 0; i < launched.tokens.size(); ++i) {
      if (launched.tokens[i] != recorded.tokens[i]) fail_run("batch ", slots, ": step ", i, " gave other tokens recorded than launched");
    }
    say(concat("decode behind ", bench.prompt, " tokens, batch ", slots, ": ", fixed(recorded.ms, 3), " ms a step ",
               recorded.why_not.empty() ? "recorded" : "launched (" + recorded.why_not + ")", ", ", fixed(launched.ms, 3), " ms launched; same ",
               launched.tokens.size(), " tokens each; products alone ", fixed(projection_ms(bench, decoder, slots), 3), " ms"));
  }
}

}  // namespace qkr::bench
