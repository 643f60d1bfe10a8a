#include "trainer/apps/command_line.h"

#include <iostream>

#include "trainer/apps/process.h"
#include "trainer/core/error.h"

namespace qkr {

int parse_and_run(CLI::App& app, const char* program, int argc, char** argv, const std::function<int()>& body) {
  app.failure_message([program](const CLI::App*, const CLI::Error& error) { return usage_line(program, error.what()); });
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::kBadInput);
  }
  const int code = guarded(program, body);
  if (code != 0 || std::cout.flush()) return code;
  std::cerr << program << ": standard output: must be written, got no room or no reader\n";
  return static_cast<int>(ExitCode::kRunFailed);
}

}  // namespace qkr
