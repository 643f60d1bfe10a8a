// Pairs of model folders for qk-restore: a base from tests/data, and copies of it with every weight moved.
#pragma once

#include <string>

#include "tests/e2e/small_run.h"
#include "trainer/core/named_tensors.h"

namespace qkr::test {

std::filesystem::path data_model(const std::string& name);

// A copy of the folder in which only the data of tensors differ: every value has noise on it.
void write_tuned(const std::filesystem::path& base, const std::filesystem::path& tuned);

// The same tensors in one file model.safetensors.
void write_single_file(const std::filesystem::path& source, const std::filesystem::path& target);

NamedTensors read_tensors(const std::filesystem::path& folder);

// Runs qk-restore --base .. --tuned .. --out .. and more.
Outcome run_restore(const std::filesystem::path& base, const std::filesystem::path& tuned, const std::filesystem::path& out,
                    const std::vector<std::string>& more = {"--method", "plain"});

}  // namespace qkr::test
