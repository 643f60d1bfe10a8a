// The tail that every program's main() shares.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace qkr {

// Parses the command line into what `app` was given, then runs `body` under guarded(). A command line that makes no sense is one
// line on standard error and exit code 2; --help and --version are 0.
int parse_and_run(CLI::App& app, const char* program, int argc, char** argv, const std::function<int()>& body);

}  // namespace qkr
