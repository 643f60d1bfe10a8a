#include "trainer/apps/offline_compare.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "csrc/core/bits.h"
#include "trainer/core/digest.h"
#include "trainer/core/error.h"
#include "trainer/model/weight_names.h"
#include "trainer/restore/selection.h"

namespace qkr {
namespace {

inline double value_of(Bf16 x) { return to_float(x); }
template <class T>
double value_of(T x) {
  return static_cast<double>(x);
}

// Independent sums side by side, which the compiler makes vectors of: it may not reorder a single one.
template <class T>
__attribute__((always_inline)) inline SquareSums sum_squares(const T* base, const T* tuned, size_t count) {
  constexpr size_t kLanes = 8;
  double moved[kLanes] = {}, from[kLanes] = {}, to[kLanes] = {};
  const auto add = [&](size_t i, size_t lane) {
    const double x = value_of(base[i]), y = value_of(tuned[i]);
    moved[lane] += (y - x) * (y - x);
    from[lane] += x * x;
    to[lane] += y * y;
  };
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) add(i + lane, lane);
  }
  for (; i < count; ++i) add(i, i % kLanes);
  SquareSums sums;
  for (size_t lane = 0; lane < kLanes; ++lane) sums += {moved[lane], from[lane], to[lane]};
  return sums;
}

// A piece of both files.
using PieceSums = SquareSums (*)(const char* base, const char* tuned, size_t bytes);

template <class T>
__attribute__((always_inline)) inline SquareSums piece_sums(const char* base, const char* tuned, size_t bytes) {
  return sum_squares(reinterpret_cast<const T*>(base), reinterpret_cast<const T*>(tuned), bytes / sizeof(T));
}
QKR_CPU_CLONES SquareSums sums_bf16(const char* base, const char* tuned, size_t bytes) { return piece_sums<Bf16>(base, tuned, bytes); }
QKR_CPU_CLONES SquareSums sums_fp32(const char* base, const char* tuned, size_t bytes) { return piece_sums<float>(base, tuned, bytes); }
SquareSums sums_fp64(const char* base, const char* tuned, size_t bytes) { return piece_sums<double>(base, tuned, bytes); }
SquareSums sums_fp16(const char* base, const char* tuned, size_t bytes) { return piece_sums<c10::Half>(base, tuned, bytes); }

PieceSums sums_of(at::ScalarType type) {
  switch (type) {
    case at::kBFloat16: return sums_bf16;
    case at::kFloat: return sums_fp32;
    case at::kDouble: return sums_fp64;
    case at::kHalf: return sums_fp16;
    default: TORCH_INTERNAL_ASSERT(false, "ModelPair::open() lets no other dtype in");
  }
}

double relative(double moved, double length) { return moved == 0 ? 0 : std::sqrt(moved / length); }

std::string part_name(const MixerTensor& tensor) {
  if (tensor.role == MixerRole::kGain) return "norms";
  switch (tensor.part) {
    case MixerPart::kQ: return "q";
    case MixerPart::kK: return "k";
    case MixerPart::kV: return "v";
    case MixerPart::kO: return "o";
    case MixerPart::kGate: return "gates";
  }
  TORCH_INTERNAL_ASSERT(false);
}

bool holds(const std::vector<MixerTensor>& tensors, const std::string& name) {
  return std::any_of(tensors.begin(), tensors.end(), [&](const MixerTensor& one) { return one.name == name; });
}

}  // namespace

SquareSums& SquareSums::operator+=(const SquareSums& other) {
  moved += other.moved;
  base += other.base;
  tuned += other.tuned;
  return *this;
}

double SquareSums::relative_to_base() const { return relative(moved, base); }
double SquareSums::relative_to_tuned() const { return relative(moved, tuned); }

TensorComparison compare_tensor(const ModelPair& pair, const std::string& name, bool digests) {
  constexpr size_t kPiece = 256 << 10;  // bytes: the digests find in the cache what the sums have read
  const SafetensorsFile &base_file = pair.base_files.file_of(name), &tuned_file = pair.tuned_files.file_of(name);
  TensorComparison result;
  {
    const at::Tensor base = base_file.tensor(name), tuned = tuned_file.tensor(name);
    const PieceSums sums = sums_of(base.scalar_type());
    const char *from = static_cast<const char*>(base.const_data_ptr()), *to = static_cast<const char*>(tuned.const_data_ptr());
    Sha256 base_sha, tuned_sha;
    for (size_t begin = 0; begin < base.nbytes(); begin += kPiece) {
      const size_t bytes = std::min(kPiece, base.nbytes() - begin);
      result.sums += sums(from + begin, to + begin, bytes);
      if (!digests) continue;
      base_sha.add(from + begin, bytes);
      tuned_sha.add(to + begin, bytes);
    }
    if (digests) {
      result.base_sha256 = base_sha.hex();
      result.tuned_sha256 = tuned_sha.hex();
    }
  }
  base_file.release(name);
  tuned_file.release(name);
  return result;
}

void measure_moves(const ModelPair& pair, OfflineLayer& row) {
  const std::string start = kLayersPrefix + std::to_string(row.layer) + ".";
  const std::array<const char*, kMovedParts.size()> modules = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                                               "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
  for (size_t i = 0; i < modules.size(); ++i) {
    row.moved[i] = compare_tensor(pair, start + modules[i] + ".weight", false).sums.relative_to_base();
  }
}

PlainLayer plain_layer(const ModelPair& pair, const MixerLayer& layer, const RestoreConfigSection& section) {
  RestoreConfigSection one = section;
  one.layers = {"", {layer.layer}};
  const MixerLayer wanted = layers_to_keep({layer}, one).at(0);
  const std::vector<MixerTensor> selected = selected_tensors(wanted, one), weights = selected_weights(wanted, one);
  PlainLayer result;
  std::map<std::string, SquareSums> changes;
  SquareSums back;
  for (const MixerTensor& tensor : wanted.tensors) {
    const bool goes_back = holds(selected, tensor.name);
    if (!goes_back && tensor.role == MixerRole::kBias) continue;
    const TensorComparison seen = compare_tensor(pair, tensor.name, goes_back);
    if (tensor.role != MixerRole::kBias) changes[part_name(tensor)] += seen.sums;
    if (holds(weights, tensor.name)) back += seen.sums;
    if (goes_back) result.written.emplace(tensor.name, seen);
  }
  LayerReport& report = result.report;
  report.layer = layer.layer;
  report.softmax = layer.softmax;
  for (const auto& [part, sums] : changes) report.changes[part] = sums.relative_to_base();
  report.residual_before = report.residual_after = back.relative_to_tuned();  // what is restored is the base
  for (const MixerTensor& tensor : selected) report.written.push_back(tensor.name);
  report.unmoved = std::all_of(result.written.begin(), result.written.end(),
                               [](const auto& seen) { return seen.second.base_sha256 == seen.second.tuned_sha256; });
  return result;
}

bool is_plain(const std::string& method) { return method == "plain" || method == "q" || method == "k" || method == "qkv"; }

}  // namespace qkr
