// The real programs as child processes: arguments in; exit code, standard output and standard error out.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tests/support/tmpdir.h"

namespace qkr::test {

struct Outcome {
  int code = 0;  // the exit code; -N: ended by signal N
  std::string out, err;
};

struct Launch {
  std::filesystem::path folder = QKR_SOURCE_DIR;  // where it runs
  std::map<std::string, std::string> environment;  // on top of ours; one OpenMP thread unless it says otherwise
  double timeout_seconds = 100;                    // then it is killed, and `err` says so
};

class Process {
 public:
  // `command`: a program's path, or the name of one that the build made; then its arguments.
  explicit Process(std::vector<std::string> command, const Launch& launch = {});
  ~Process();  // kills what still runs
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // Waits until standard output holds `text`. False if the process ended first.
  bool wait_for(const std::string& text);
  void signal(int number) const;
  Outcome wait();

 private:
  bool is_running();

  TmpDir files_;
  double timeout_seconds_;
  pid_t pid_ = -1;
  int status_ = 0;
  bool ended_ = false, timed_out_ = false;
};

inline Outcome run_program(std::vector<std::string> command, const Launch& launch = {}) {
  return Process(std::move(command), launch).wait();
}

std::vector<std::string> lines_of(const std::string& text);

}  // namespace qkr::test
