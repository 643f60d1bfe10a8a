// What train.freeze means for a run: checked before a weight is read, and told at the start.
#pragma once

#include <string>

#include "trainer/apps/session.h"

namespace qkr {

// Fills prepared.frozen. Error as of frozen_weights(); or if a restore would turn weights of a layer together of which some are frozen
// and some are not.
void choose_frozen(Prepared& prepared);

// How many weights are trained, which are not, where the backward pass ends, and what the restore will find unmoved; "" where all are trained.
std::string describe_frozen(const Prepared& prepared);

}  // namespace qkr
