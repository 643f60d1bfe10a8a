// TorchScript's texts, as torch 2.11 writes them, in one line of ours.
#include <gtest/gtest.h>

#include "trainer/hooks/script_error.h"

namespace qkr {
namespace {

TEST(ScriptErrorLine, OfTheCompilerPutsThePlaceFirst) {
  const std::string text =
      "\nUnknown builtin op: aten::nosuch.\nCould not find any similar ops to aten::nosuch.\n:\n  File \"<string>\", line 2\n"
      "def f(self, a: int):\n  return torch.nosuch(a)\n         ~~~~~~~~~~~~ <--- HERE\n";
  EXPECT_EQ(script_error_line(text, "h.ts", ""), "h.ts:2: Unknown builtin op: aten::nosuch.");
}

TEST(ScriptErrorLine, OfTheParserDropsWhatIntroducesTheExcerpt) {
  const std::string text =
      "expected ident but found 'newline' here:\n  File \"<string>\", line 3\ndef f(self, a: int):\n  return a +\n";
  EXPECT_EQ(script_error_line(text, "h.ts", ""), "h.ts:3: expected ident but found 'newline'");
}

TEST(ScriptErrorLine, OfTheInterpreterTakesTheInnermostFrameAndTheReasonAlone) {
  const std::string text =
      "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript (most recent call last):\n"
      "  File \"<string>\", line 14, in on_step\n    x = self.helper(w)\n        ~~~~ <--- HERE\n"
      "  File \"<string>\", line 3, in helper\n    return a.mm(b)\n           ~~~~ <--- HERE\n"
      "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)\nException raised from meta at x.cpp:12\n#0 frame\n";
  EXPECT_EQ(script_error_line(text, "h.ts", "on_step"),
            "h.ts:3: on_step: mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)");
}

// A saved module knows the Python file that it was written in: that is the place to look at.
TEST(ScriptErrorLine, OfASavedModuleNamesItsOwnSource) {
  const std::string text =
      "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript, serialized code (most recent call last):\n"
      "  File \"code/__torch__/hook.py\", line 28, in on_step\n    ops.prim.RaiseException(x)\n    ~~~~ <--- HERE\n\n"
      "Traceback of TorchScript, original code (most recent call last):\n  File \"/home/a/hook.py\", line 7, in on_step\n"
      "    assert False\n    ~~~~ <--- HERE\nRuntimeError: AssertionError: \n";
  EXPECT_EQ(script_error_line(text, "h.pt", "on_step"), "/home/a/hook.py:7 (h.pt): on_step: AssertionError: ");
}

TEST(ScriptErrorLine, WithoutAPlaceNamesTheScript) {
  EXPECT_EQ(script_error_line("out of memory", "h.ts", "on_end"), "h.ts: on_end: out of memory");
  EXPECT_EQ(script_error_line("", "h.ts", "on_end"), "h.ts: on_end: an error without a text");
}

}  // namespace
}  // namespace qkr
