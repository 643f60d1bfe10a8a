// The parts of the page, top to bottom. Each returns valid HTML, or "" where the run has nothing to show.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "trainer/report/heads.h"
#include "trainer/report/recall.h"
#include "trainer/report/run_data.h"

namespace qkr {

std::string masthead(const RunData& run, const Recall& recall);        // name, facts, headline, tiles, what is missing
std::string recall_section(const RunData& run, const Recall& recall);  // rates, differences, depth maps, during training
std::string heads_section(const HeadMap& map);                          // layers x heads, who lost and regained the needle
std::string training_section(const RunData& run);                      // charts (drawn by page.js) and the numbers behind them
std::string hook_curves(const std::vector<HookCurve>& curves);          // of it: what hooks measured; drawn without a script
std::string restore_section(const RunData& run);                       // what was done, per layer
std::string auto_part(const nlohmann::ordered_json& chosen);           // of it: what method auto tried ("auto" of restore.json)
std::string missed_section(const Recall& recall);                      // prompts whose answer was not found
std::string config_section(const RunData& run);

}  // namespace qkr
