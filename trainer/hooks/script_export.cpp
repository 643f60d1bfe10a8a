#include "trainer/hooks/script_export.h"

#include <string>
#include <system_error>

#include "trainer/core/error.h"
#include "trainer/hooks/script_compile.h"
#include "trainer/hooks/script_save.h"

namespace qkr {
namespace fs = std::filesystem;

std::vector<fs::path> export_scripts(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(folder.string(), ": must be a folder for the modules, got ", error.message());
  std::vector<fs::path> written;
  for (const auto& [name, source] : {std::pair("restore", restore_module), std::pair("answers", answers_module)}) {
    const torch::jit::Module module =
        compile_source(std::string(name) + ".ts", std::string(source), std::string("__torch__.qk_restore_") + name);
    written.push_back(folder / (std::string(name) + ".pt"));
    save_module(module, written.back());
  }
  return written;
}

}  // namespace qkr
