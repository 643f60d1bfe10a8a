// One layer's restore: reads the live weights and the snapshot, works on the device of the weights, and keeps what is to be
// written until the whole model has been computed.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/core/named_tensors.h"
#include "trainer/restore/restore.h"
#include "trainer/restore/snapshot.h"

namespace qkr {

// A value that waits to be copied into a live tensor.
struct Write {
  std::string name;
  at::Tensor value;
};

class LayerRestorer {
 public:
  // Measures what the fine-tuning changed. The arguments must outlive the object.
  LayerRestorer(const NamedTensors& weights, const Snapshot& snapshot, const MixerLayer& layer, const RestoreConfigSection& section);

  // Are all selected tensors those of the snapshot? Then there is nothing that a method could put back: unmoved() writes them as they are.
  bool is_unmoved() const;
  void unmoved();

  // One method each; see restore.h. `none` calls none of them.
  void plain();
  void lerp(double share);
  void procrustes();
  void qk_pro();  // the three forms
  void procrustes_head();

  // Measures what is to be written, and hands it over.
  std::vector<Write> finish();

  LayerReport report;
  Rotations rotations;

 private:
  at::Tensor pre(const std::string& name) const;   // on the device of the live weight
  at::Tensor post(const std::string& name) const;  // detached
  void check_finite(const std::string& name) const;
  void write(const std::string& name, const at::Tensor& value);
  at::Tensor block(MixerPart part, bool tuned, bool bias) const;
  void write_block(MixerPart part, const at::Tensor& value);
  bool has_bias_column() const;
  void put_back_the_rest();  // what is selected and has no write yet, as it was
  bool is_written(const std::string& name) const;
  void measure_changes();

  const NamedTensors& weights_;
  const NamedTensors& kept_;
  const MixerLayer& layer_;
  const RestoreConfigSection& section_;
  std::vector<std::string> turned_names() const;  // the selected matrices that read the layer's input, which procrustes turns

  std::vector<MixerTensor> selected_;
  std::vector<Write> writes_;
};

}  // namespace qkr
