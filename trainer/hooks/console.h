// The one place that prints while a run goes on: lines that stay, and one status line that is overwritten where the terminal
// is one.
#pragma once

#include <ostream>
#include <string>

namespace qkr {

class Console {
 public:
  // `progress`: "on", "off", or "auto": on if standard error is a terminal.
  Console(std::ostream& out, const std::string& progress);
  ~Console();

  void line(const std::string& text);    // stays; may hold several lines
  void status(const std::string& text);  // replaced by the next status or line; nothing without progress

 private:
  void clear();

  std::ostream& out_;
  bool progress_;
  bool has_status_ = false;
};

// "[#########-----------]", `width` characters between the brackets.
std::string progress_bar(int64_t done, int64_t total, int width = 20);

}  // namespace qkr
