#include "trainer/hooks/script_export.h"

#include <string>
#include <system_error>

#include "trainer/core/error.h"
#include "trainer/hooks/script_compile.h"

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
    const fs::path target = folder / (std::string(name) + ".pt"), partial = target.string() + ".partial";
    try {
      module.save(partial.string());
      fs::rename(partial, target);
    } catch (const std::exception& failed) {
      fail_run(target.string(), ": must be written, got ", script_reason(failed.what()));
    }
    written.push_back(target);
  }
  return written;
}

}  // namespace qkr
