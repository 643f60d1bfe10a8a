#include "tests/e2e/offline_models.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "tests/support/fixtures.h"
#include "trainer/io/folder_copy.h"
#include "trainer/io/safetensors.h"

namespace qkr::test {

fs::path data_model(const std::string& name) { return source_dir() / "tests" / "data" / "models" / name / "model"; }

void write_tuned(const fs::path& base, const fs::path& tuned) {
  copy_folder(base, tuned);
  const SafetensorsFolder files(base);
  auto generator = at::make_generator<at::CPUGeneratorImpl>(7);
  for (const std::string& name : files.names()) {
    const at::Tensor from = files.tensor(name);
    const at::Tensor noise = at::randn(from.sizes(), generator, at::TensorOptions().dtype(at::kDouble));
    const at::Tensor to = (from.to(at::kDouble) + 0.02 * noise).to(from.scalar_type());
    overwrite_bytes(tuned / fs::path(files.file_of(name).file()).filename(), files.file_of(name).offset(name),
                    {static_cast<const char*>(to.const_data_ptr()), to.nbytes()});
  }
}

void write_single_file(const fs::path& source, const fs::path& target) {
  fs::create_directories(target);
  fs::copy_file(source / "config.json", target / "config.json");
  write_safetensors(target / "model.safetensors", read_tensors(source), {{"format", "pt"}, {"note", "kept"}});
}

NamedTensors read_tensors(const fs::path& folder) {
  NamedTensors tensors;
  const SafetensorsFolder files(folder);
  for (const std::string& name : files.names()) tensors.set(name, files.tensor(name).clone());
  return tensors;
}

Outcome run_restore(const fs::path& base, const fs::path& tuned, const fs::path& out, const std::vector<std::string>& more) {
  std::vector<std::string> command = {"qk-restore", "--base",     base.string(), "--tuned", tuned.string(), "--out",
                                      out.string(), "--device", "cpu"};
  command.insert(command.end(), more.begin(), more.end());
  return run_program(command);
}

}  // namespace qkr::test
