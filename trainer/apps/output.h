// The folder of a run: whose it is, before a byte is written.
#pragma once

#include "trainer/apps/session.h"

namespace qkr {

// Refuses a folder that is another's, or that cannot be written to; sets resume_from and resuming, and with --resume
// takes the folder.
void check_output(Prepared& p, bool resume);

// Makes the folder and takes it until `p` ends, if check_output() has not. Error if another process has it, or has
// left something in it meanwhile.
void take_output(Prepared& p);

}  // namespace qkr
