#include "trainer/apps/embed.h"

#include "trainer/apps/process.h"
#include "trainer/apps/session.h"
#include "trainer/hooks/hook_states.h"

namespace qkr {
namespace {

// Swallows everything; a run without an output stream writes here.
class Nowhere : public std::streambuf {
  int overflow(int character) override { return traits_type::not_eof(character); }
};

}  // namespace

RunEnd fine_tune(FineTune& job) {
  Nowhere nowhere;
  std::ostream silent(&nowhere);
  std::ostream& out = job.out != nullptr ? *job.out : silent;
  check_config(job.config);
  check_hook_names(job.hooks);
  make_deterministic();
  Console console(out, job.out != nullptr ? job.config.log.progress : "off");
  Prepared prepared = prepare(job.config, job.resume, console);
  console.line(describe(prepared));
  return train(std::move(prepared), console, {std::move(job.hooks), job.requests});
}

}  // namespace qkr
