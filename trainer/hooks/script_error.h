// TorchScript's error texts, which run over many lines, as one line of ours: where in the script, and what.
#pragma once

#include <string>

namespace qkr {

// A place in a script's source.
struct ScriptPlace {
  std::string file;  // "" if the text names none
  int64_t line = 0;  // from 1; 0: unknown
};

// The innermost place in the original source that `text` names. `script` stands for "<string>", which is what
// TorchScript calls a source that it was given as text.
ScriptPlace script_place(const std::string& text, const std::string& script);

// What went wrong, without traceback, source excerpt and C++ frames.
std::string script_reason(const std::string& text);

// "hooks/ema.ts:14: on_step: AssertionError: too many things"; without a place in the text: "hooks/ema.ts: on_step:
// ...".
std::string script_error_line(const std::string& text, const std::string& script, const std::string& method);

}  // namespace qkr
