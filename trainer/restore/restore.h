// Puts weights back after fine-tuning, W_Q and W_K of the softmax layers if nothing else is asked for:
// NamedTensors x Snapshot -> NamedTensors. No disk, no loop.
//
// Restored weights are written in place, and nothing else is. Whoever keeps an optimizer must follow: a restored bf16 weight
// with a split fp32 master (ops/adamw_split.h) needs its master_low set to zero, else the master is a mix of the new upper and
// the old lower bits; its Adam moments belong to the weights before the restore (trainer/optim/moments.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "ops/polar.h"
#include "trainer/config/run_config.h"
#include "trainer/core/named_tensors.h"
#include "trainer/restore/snapshot.h"

namespace qkr {

// Norms are Frobenius norms in fp64. W = the selected weights of the layer as one (W_Q and W_K by default; the gains for the
// parts norms), pre: snapshot, post: before this restore, restored: after it.
struct LayerReport {
  int64_t layer = 0;
  bool softmax = true;                    // else a linear layer
  std::map<std::string, double> changes;  // q, k, v, o, gates, norms, as far as the snapshot holds them: ||post - pre|| / ||pre||
  double residual_before = 0;             // ||W_pre - W_post|| / ||W_post||: what a plain copy is away from the tuned weights
  double residual_after = 0;              // ||W_restored - W_post|| / ||W_post||
  std::optional<double> rotation;         // procrustes: ||R - I||_F / sqrt(d); procrustes-head: ||A - I||_F / sqrt(KV D)
  std::optional<double> mu;               // procrustes: anchor * mean|diag(W_pre^T W_post)|
  std::optional<PolarCertificate> certificate;  // procrustes; procrustes-head: the worst KV head's, none where only phases and signs turn
  std::optional<double> lambda_min, lambda_max;  // qk-pro forms: the absolute ridge, over the KV heads where they have one each
  std::optional<double> corrected;               // qk-pro forms: ||Q_restored - Q_post|| / ||Q_pre - Q_post||: 1 is plain, 0 is K alone
  std::optional<int64_t> free_coordinates;       // procrustes-head: of head_dim, those that more than a change of sign is exact for
  std::vector<std::string> written;             // names of the tensors that were written
  bool unmoved = false;                         // all that was selected still had the snapshot's values, and has them
};

struct RestoreReport {
  std::string method;
  LayerChoice layer_choice;
  std::string parts;             // that the method worked on: qkv for the control qkv
  std::optional<double> anchor;  // procrustes
  std::optional<double> ridge;   // qk-pro forms, relative
  std::optional<double> blend;   // lerp: the A of W_pre + A (W_post - W_pre)
  std::vector<LayerReport> layers;
  std::string snapshot_sha256;
  std::string restored_sha256;  // tensors_digest of all tensors written
};

// By the name of a weight [rows, d] that procrustes wrote: its R [d, d], fp64, on the weight's device; restored = W_pre R.
using Rotations = std::map<std::string, at::Tensor>;

// Copies into the live tensors of `weights`, which may be on a GPU, by section.method:
//   none        nothing is written, the changes are still measured
//   plain       W_pre, byte for byte; q, k and qkv are plain with these parts
//   lerp:A      W_pre + A (W_post - W_pre) for every selected tensor, biases and gains too (trainer/restore/lerp.h)
//   procrustes  W_pre R with one R a layer, shared by all selected weights that read the layer's input (ops/procrustes.h),
//               anchor from the section; W_O, biases and gains as they were
//   qk-pro, qk-pro-head, qk-pro-bilinear   K_pre, and Q corrected by a ridge (trainer/restore/ridge.h), ridge from the section
//   procrustes-head   A Q_pre and A K_pre with an orthogonal A a KV head that leaves the logits as plain has them, nearest to the
//               tuned weights (trainer/restore/head_gauge.h)
// auto is refused: whoever chooses among its candidates restores by the chosen one (trainer/restore/candidates.h).
// A layer in which all that is selected still has the snapshot's values (frozen, say) keeps them bit for bit under every method.
// Which layers and tensors: section.layers, parts, biases and qk_norm (trainer/restore/selection.h).
// All is computed before anything is written. Throws Error (bad input) naming the tensor if a name, shape or dtype of the
// snapshot is not the model's or the snapshot lacks what is selected, and (run failed) if weights that are computed with
// hold NaN or Inf.
// `rotations`, if given, gets what turned each weight, for those who must turn what belongs to it.
RestoreReport restore(NamedTensors& weights, const Snapshot& snapshot, const RestoreConfigSection& section, Rotations* rotations = nullptr);

// Why the method cannot work on the selected layers of the snapshot, "" if it can: what restore() refuses first. The QK-norm
// gains that count are the snapshot's.
std::string restore_refusal(const Snapshot& snapshot, const RestoreConfigSection& section);

// Throws Error (bad input) with that reason, for those who do not want to train before they learn it. Of auto's candidates one
// other than none must be left.
void check_restorable(const Snapshot& snapshot, const RestoreConfigSection& section);

// section.ridge, or the method's default: 1e-6, for qk-pro-bilinear 0.1.
double ridge_of(const RestoreConfigSection& section);

// The A of "lerp:A", nothing for another method. Throws Error if A is not a number from 0 to 1.
std::optional<double> blend_of(const std::string& method);

// The N of at: every N; 0 for end. Throws Error if N is not a whole number from 1 on.
int64_t restore_interval(const RestoreConfigSection& section);

// What restore.json holds. Numbers that are not finite become null; what a method has not is left out.
nlohmann::json to_json(const RestoreReport& report);

}  // namespace qkr
