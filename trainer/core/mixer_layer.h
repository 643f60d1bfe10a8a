// One layer's token mixer as whoever restores it must know it: the names of its weights and what each does, and what stands
// between its projections and its attention logits. Made from config.json (trainer/model/architecture.h); no tensor here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qkr {

enum class MixerPart { kQ, kK, kV, kO, kGate };
enum class MixerRole {
  kWeight,  // a matrix [out, in]; of kO: in = heads * head_dim, of the others: in = hidden size
  kBias,    // [out]
  kGain,    // of the norm behind q and k (one per coordinate of a head), or in front of o
};

struct MixerTensor {
  MixerPart part = MixerPart::kQ;
  MixerRole role = MixerRole::kWeight;
  std::string name;
};

struct MixerLayer {
  int64_t layer = 0;     // 0-based
  bool softmax = false;  // by its type in config.json: a linear layer may use the same names and shapes
  int64_t heads = 0, kv_heads = 0, head_dim = 0;  // q rows are heads * head_dim, a head reads KV head h / (heads / kv_heads)
  bool rope = false;           // pairs (j, j + head_dim / 2) of q and k turn with the position
  bool qk_activation = false;  // a nonlinearity other than a norm between the projections and the logits
  std::vector<MixerTensor> tensors;

  // The name of a tensor, "" where the layer has none.
  std::string name_of(MixerPart part, MixerRole role) const {
    for (const MixerTensor& tensor : tensors) {
      if (tensor.part == part && tensor.role == role) return tensor.name;
    }
    return "";
  }
};

}  // namespace qkr
