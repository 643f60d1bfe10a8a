// Puts W_Q and W_K of the softmax layers back after fine-tuning: NamedTensors x Snapshot -> NamedTensors. No disk, no loop.
//
// Restored weights are written in place, and nothing else is. Whoever keeps an optimizer must follow: a restored bf16 weight
// with a split fp32 master (ops/adamw_split.h) needs its master_low set to zero, else the master is a mix of the new upper and
// the old lower bits; its Adam moments belong to the weights before the restore.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ops/polar.h"
#include "trainer/config/run_config.h"
#include "trainer/core/named_tensors.h"
#include "trainer/restore/snapshot.h"

namespace qkr {

// Norms are Frobenius norms in fp64. W = [W_Q; W_K] stacked, pre: snapshot, post: before this restore, restored: after it.
struct LayerReport {
  int64_t layer = 0;
  double q_change = 0;         // ||Q_post - Q_pre|| / ||Q_pre||
  double k_change = 0;         // the same for K
  double residual_before = 0;  // ||W_pre - W_post|| / ||W_post||: what a plain copy is away from the tuned weights
  double residual_after = 0;   // ||W_restored - W_post|| / ||W_post||
  double rotation = 0;         // ||R - I||_F / sqrt(d); 0 but for procrustes
  std::optional<double> mu;    // procrustes: anchor * mean|diag(W_pre^T W_post)|
  std::optional<PolarCertificate> certificate;  // procrustes
  std::vector<std::string> written;             // names of the tensors that were written
};

struct RestoreReport {
  std::string method;
  double anchor = 0;
  std::vector<LayerReport> layers;
  std::string snapshot_sha256;
  std::string restored_sha256;  // tensors_digest of all tensors written
};

// Copies into the live tensors of `weights`, which may be on a GPU, by section.method:
//   none        nothing is written, the changes are still measured
//   plain       W_pre, byte for byte
//   procrustes  W_pre R with one R a layer, shared by Q and K (ops/procrustes.h), anchor from the section
// Biases (section.biases) and q/k norm gains (section.qk_norm) go back as they were, unrotated.
// All is computed before anything is written. Throws Error (bad input) naming the tensor if a name, shape or dtype of the
// snapshot is not the model's, and (run failed) if tuned weights that R is computed from hold NaN or Inf.
RestoreReport restore(NamedTensors& weights, const Snapshot& snapshot, const RestoreConfigSection& section);

// What restore.json holds. Numbers that are not finite become null.
nlohmann::json to_json(const RestoreReport& report);

}  // namespace qkr
