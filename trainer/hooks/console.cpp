#include "trainer/hooks/console.h"

#include <unistd.h>

#include <algorithm>
#include <iostream>

namespace qkr {

Console::Console(std::ostream& out, const std::string& progress)
    : out_(out), progress_(progress == "on" || (progress == "auto" && isatty(STDERR_FILENO) != 0)) {}

Console::~Console() { clear(); }

void Console::clear() {
  if (!has_status_) return;
  std::cerr << "\r\033[K" << std::flush;
  has_status_ = false;
}

void Console::line(const std::string& text) {
  clear();
  out_ << text;
  if (text.empty() || text.back() != '\n') out_ << '\n';
  out_ << std::flush;  // a log file shows the run as it goes
}

void Console::status(const std::string& text) {
  if (!progress_) return;
  std::cerr << "\r\033[K" << text << std::flush;
  has_status_ = true;
}

std::string progress_bar(int64_t done, int64_t total, int width) {
  const int64_t filled = total > 0 ? std::clamp<int64_t>(done * width / total, 0, width) : 0;
  return "[" + std::string(filled, '#') + std::string(width - filled, '-') + "]";
}

}  // namespace qkr
