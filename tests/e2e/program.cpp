#include "tests/e2e/program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "tests/support/fixtures.h"

extern char** environ;

namespace qkr::test {
namespace {

using Clock = std::chrono::steady_clock;

// $QKR_BIN has the programs, else the build's own folder.
std::string program_path(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  const char* given = std::getenv("QKR_BIN");
  const fs::path folder = given != nullptr ? fs::path(given) : fs::path(QKR_BINARY_DIR) / "bin";
  return (folder / name).string();
}

std::vector<std::string> environment_with(const std::map<std::string, std::string>& extra) {
  std::map<std::string, std::string> all;
  for (char** one = environ; *one != nullptr; ++one) {
    const std::string text = *one;
    all[text.substr(0, text.find('='))] = text.substr(std::min(text.size(), text.find('=') + 1));
  }
  all["OMP_NUM_THREADS"] = "1";  // the models are tiny, and threads that wait for each other on busy cores are slower than one
  for (const auto& [name, value] : extra) all[name] = value;
  std::vector<std::string> lines;
  for (const auto& [name, value] : all) lines.push_back(name + "=" + value);
  return lines;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& text : texts) all.push_back(text.data());
  all.push_back(nullptr);
  return all;
}

// In the child: only calls that are safe after fork().
[[noreturn]] void become(char** arguments, char** environment, const char* folder, int out, int err) {
  const int nothing = ::open("/dev/null", O_RDONLY);
  const bool ready = ::dup2(nothing, STDIN_FILENO) >= 0 && ::dup2(out, STDOUT_FILENO) >= 0 && ::dup2(err, STDERR_FILENO) >= 0 &&
                     ::chdir(folder) == 0;
  if (ready) ::execve(arguments[0], arguments, environment);
  ::_exit(127);
}

int open_for_writing(const fs::path& path) { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600); }

}  // namespace

Process::Process(std::vector<std::string> command, const Launch& launch) : timeout_seconds_(launch.timeout_seconds) {
  command.at(0) = program_path(command.at(0));
  if (!fs::exists(command[0])) throw std::runtime_error(command[0] + " is not there: build it first");
  std::vector<std::string> environment = environment_with(launch.environment);
  const std::vector<char*> arguments = pointers(command), variables = pointers(environment);
  const int out = open_for_writing(files_ / "out"), err = open_for_writing(files_ / "err");
  pid_ = ::fork();
  if (pid_ == 0) become(const_cast<char**>(arguments.data()), const_cast<char**>(variables.data()), launch.folder.c_str(), out, err);
  ::close(out);
  ::close(err);
  if (pid_ < 0) throw std::runtime_error("fork failed");
}

Process::~Process() {
  if (!is_running()) return;
  signal(SIGKILL);
  ::waitpid(pid_, &status_, 0);
}

bool Process::is_running() {
  if (!ended_) ended_ = ::waitpid(pid_, &status_, WNOHANG) == pid_;
  return !ended_;
}

void Process::signal(int number) const {
  if (!ended_) ::kill(pid_, number);
}

bool Process::wait_for(const std::string& text) {
  const auto start = Clock::now();
  while (true) {
    const bool was_running = is_running();
    if (read_file(files_ / "out").find(text) != std::string::npos) return true;
    if (!was_running || Clock::now() - start > std::chrono::duration<double>(timeout_seconds_)) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

Outcome Process::wait() {
  const auto start = Clock::now();
  while (is_running()) {
    if (!timed_out_ && Clock::now() - start > std::chrono::duration<double>(timeout_seconds_)) {
      timed_out_ = true;
      signal(SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  Outcome outcome{WIFEXITED(status_) ? WEXITSTATUS(status_) : -WTERMSIG(status_), read_file(files_ / "out"), read_file(files_ / "err")};
  if (timed_out_) outcome.err += "[killed by the test: it took too long]\n";
  return outcome;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

}  // namespace qkr::test
