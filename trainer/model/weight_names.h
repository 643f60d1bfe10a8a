// Names of weights that the code means by name, as Hugging Face's checkpoints have them; architecture.h has the whole list of a model's.
#pragma once

namespace qkr {

inline constexpr char kEmbeddingName[] = "model.embed_tokens.weight";
inline constexpr char kHeadName[] = "lm_head.weight";  // not of a tied model, whose LM head is the embedding
inline constexpr char kFinalNormName[] = "model.norm.weight";
inline constexpr char kLayersPrefix[] = "model.layers.";  // then "<i>."

}  // namespace qkr
