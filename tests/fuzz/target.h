// What a fuzz run calls: something of ours that reads a user's bytes, and what it must hold to whatever they are.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace qkr::fuzz {

struct Target {
  std::string name;
  std::vector<std::string> seeds;             // good inputs, which are mutated
  std::vector<std::string> words;             // what to splice in beside the words of the seeds
  std::function<void(std::string_view)> run;  // throws Finding, or anything else, for a bug
};

// A promise that was not kept.
struct Finding : std::logic_error {
  using std::logic_error::logic_error;
};

void require(bool kept, const std::string& promise);

// True if `work` ran through; false if it refused its input as it may: a qkr::Error of kind kBadInput, of one line of
// printable UTF-8, not endless, that begins with one of `places`. Any other refusal is a Finding; any other exception
// goes through.
bool accepts(const std::vector<std::string>& places, const std::function<void()>& work);

// The same where each line is a refusal of its own.
bool accepts_or_lists(const std::vector<std::string>& places, const std::function<void()>& work);

// "name\ntext" pieces one after the other, each begun by a line "=== name": an input of several files.
struct Part {
  std::string name;
  std::string_view text;
};
std::vector<Part> parts_of(std::string_view input);

// A folder of this process, for the targets that read files; gone with the process.
const std::string& scratch();
// Writes <scratch>/<name> and returns its path.
std::string write_scratch(const std::string& name, std::string_view bytes);

// Every target, in the files of their rooms.
Target checkpoint_target();
Target config_target();
Target json_target();
Target model_target();
Target report_target();
Target results_target();
Target haystack_target();
Target rows_target();
Target safetensors_target();
Target shards_target();
Target template_target();
Target tokenizer_target();
Target tokenizer_config_target();
std::vector<Target> all_targets();

}  // namespace qkr::fuzz
