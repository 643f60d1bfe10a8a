// TrainState ↔ folder, so that a stopped run can resume. checkpoints/step-000200/ holds model.safetensors, optim.safetensors and
// progress.json (counters, identity, sizes and digests of the others), and what the run's hooks add. A checkpoint exists once its folder has
// its final name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "trainer/core/train_state.h"

namespace qkr {

// What the run was made of, by name: digests of configuration, data, snapshot. Stored and compared, never interpreted.
using Identity = std::map<std::string, std::string>;

// Writes more files into the folder of a checkpoint in the making: what else a resume needs. Their sizes and digests are recorded too.
using WriteMore = std::function<void(const std::filesystem::path& folder)>;

struct Progress {
  int64_t step = 0, next_sample = 0, tokens_seen = 0, tokens_trained = 0;
  Identity identity;
};

// <dir>/step-000200
std::filesystem::path checkpoint_path(const std::filesystem::path& checkpoints_dir, int64_t step);

// Writes the whole state atomically; `folder` must not exist yet. Not enough free space is an Error (kRunFailed) before a byte
// is written. Other checkpoints are not touched.
void save_checkpoint(const std::filesystem::path& folder, const TrainState& state, const Identity& identity = {}, const WriteMore& more = {});

// progress.json, after checking that every file that it lists is there in its recorded size; their bytes are not read.
Progress read_progress(const std::filesystem::path& folder);

// Copies the checkpoint INTO the live tensors of `state` and sets its counters. Every file must have the digest that was recorded, so that a
// bit that has flipped since then is an Error; names, dtypes and shapes must agree both ways; everything is checked before anything is
// changed. Returns what read_progress returns.
Progress load_checkpoint(const std::filesystem::path& folder, TrainState& state);

// Error naming the first item of `expected` that the checkpoint was not made with; what it lacks counts as empty. Items only the checkpoint has
// are ignored.
void require_identity(const std::filesystem::path& folder, const Identity& saved, const Identity& expected);

// The checkpoint with the highest step; .partial folders and folders without progress.json are not checkpoints.
std::optional<std::filesystem::path> latest_checkpoint(const std::filesystem::path& checkpoints_dir);

// Deletes all but the newest `keep` (at least 1) checkpoints and any leftover .partial, but nothing at all unless the newest is
// complete. Call it after save_checkpoint.
void prune_checkpoints(const std::filesystem::path& checkpoints_dir, int64_t keep);

// Deletes the checkpoints after `step`, which a run resumed from an older checkpoint will write again, and what is left of any.
void drop_checkpoints_after(const std::filesystem::path& checkpoints_dir, int64_t step);

}  // namespace qkr
