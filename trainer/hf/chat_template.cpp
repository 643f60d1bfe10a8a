#include "trainer/hf/chat_template.h"

#include "trainer/core/error.h"
#include "trainer/hf/handles.h"

namespace qkr {

struct ChatTemplate::Impl {
  QkrHfTemplate* handle = nullptr;

  Impl() = default;
  Impl(const Impl&) = delete;
  ~Impl() { qkr_hf_template_free(handle); }
};

ChatTemplate::ChatTemplate(std::string_view source, std::string_view special_tokens_json, const std::string& name)
    : impl_(std::make_unique<Impl>()) {
  QkrHfText error{};
  const QkrHfView tokens = hf::view(special_tokens_json);
  if (qkr_hf_template_load(hf::view(source), tokens, hf::view(name), &impl_->handle, &error) != 0) {
    fail(hf::told(error));
  }
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

Rendered ChatTemplate::render(std::string_view messages_json, std::string_view tools_json,
                              const RenderOptions& options) const {
  QkrHfRenderArgs args{};
  args.messages = hf::view(messages_json);
  args.tools = hf::view(tools_json);
  args.extra = hf::view(options.extra_json);
  args.add_generation_prompt = options.add_generation_prompt ? 1 : 0;
  args.want_spans = options.want_spans ? 1 : 0;
  args.allow_dropped = options.allow_dropped ? 1 : 0;
  QkrHfRendered got{};
  QkrHfText error{};
  if (qkr_hf_render(impl_->handle, &args, &got, &error) != 0) fail(hf::told(error));
  Rendered rendered;
  if (got.text.size != 0) rendered.text.assign(got.text.data, got.text.size);
  for (size_t i = 0; i < got.span_count; ++i) {
    rendered.assistant_spans.push_back({got.spans[2 * i], got.spans[2 * i + 1]});
  }
  qkr_hf_rendered_free(got);
  return rendered;
}

}  // namespace qkr
