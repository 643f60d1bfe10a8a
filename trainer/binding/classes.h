// What another program, or TorchScript, or Python needs of the restore and the probe beside the operators, as Torch classes:
// torch.classes.qk_restore.Snapshot and .NeedleProbe. The rooms do the work; here are only plain types in and out. Errors of the
// caller arrive as ValueError, those of a run as RuntimeError.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/custom_class.h>

#include <string>
#include <tuple>
#include <vector>

#include "trainer/probe/codec.h"
#include "trainer/probe/items.h"
#include "trainer/probe/runner.h"
#include "trainer/restore/snapshot.h"

namespace qkr {

// trainer/restore with live tensors as two lists: names, and tensors of any device.
class SnapshotClass : public torch::CustomClassHolder {
 public:
  // Copies to the CPU what `options` (options.h) may need, and q and k of softmax layers in any case. `layers`: the whole model.
  SnapshotClass(const std::vector<std::string>& names, const std::vector<at::Tensor>& tensors, const std::string& layers,
                const std::string& options);
  explicit SnapshotClass(Snapshot snapshot) : snapshot_(std::move(snapshot)) {}

  // In place; returns restore.json's text. Nothing is written where it throws.
  std::string restore(const std::vector<std::string>& names, const std::vector<at::Tensor>& tensors, const std::string& options) const;
  std::string refusal(const std::string& options) const;  // why restore() would refuse, "" if it would not
  const Snapshot& snapshot() const { return snapshot_; }
  std::vector<std::string> names() const;
  std::vector<at::Tensor> tensors() const;  // on the CPU; shared, not copied

 private:
  Snapshot snapshot_;
};

// trainer/probe with a model that someone else runs: prompts out, tokens in, rows of probe.jsonl out.
class NeedleProbeClass : public torch::CustomClassHolder {
 public:
  // `folder`: tokenizer.json, tokenizer_config.json, chat_template.jinja. `options`: probe_options(). `labels`: {"model": "...",
  // "tokenizer": "...", "dtype": "..."}, what the rows say of what was measured. Draws the prompts.
  NeedleProbeClass(const std::string& folder, const std::string& options, const std::vector<int64_t>& eos_ids, const std::string& labels);

  int64_t size() const { return static_cast<int64_t>(items_.size()); }
  at::Tensor ids(int64_t index) const;  // the model's input: [T] int64, on the CPU
  std::string text(int64_t index) const;  // the same as text: prompt and answer prefix
  // Whether the probe's rule ends the text after these tokens: all answers found, an end token, or the limit.
  bool is_finished(int64_t index, const std::vector<int64_t>& made) const;
  // A row for greedy tokens, cut where is_finished() first holds.
  std::string result(int64_t index, const std::vector<int64_t>& made, double seconds, const std::string& stage, int64_t step) const;
  // The second reading: input with its answer [T'] int64, and the first token of the answer; then what a model thinks of those tokens.
  std::tuple<at::Tensor, int64_t> forced(int64_t index) const;
  std::string forced_result(int64_t index, const at::Tensor& logprobs, const at::Tensor& ranks, double seconds, const std::string& stage,
                            int64_t step) const;

 private:
  const NeedleItem& item(int64_t index) const;
  ProbeOptions options_at(const std::string& stage, int64_t step) const;

  TextModel text_;
  TextCodec codec_;
  ProbeOptions options_;
  std::vector<NeedleItem> items_;
};

// Rows of probe.jsonl → {"cells": [...], "changes": [...], "table": "..."}: rates with Wilson's interval, paired differences between
// stages with Newcombe's interval and McNemar's exact p, and the programs' own table.
std::string probe_summary(const std::vector<std::string>& rows);

// The mixers of a model by its config.json (trainer/model/architecture.h), as layers_to_json writes them.
std::string mixer_layers_json(const std::string& config_json);

}  // namespace qkr
