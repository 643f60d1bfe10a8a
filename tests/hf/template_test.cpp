// Chat templates: what is refused and how it is said, variables, spans where they are hard to see.
#include <gtest/gtest.h>

#include <atomic>
#include <ctime>
#include <thread>

#include "tests/hf/support.h"
#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"
#include "trainer/hf/chat_template.h"

namespace qkr::test {
namespace {

const std::string kPlain =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const std::string kTurn = R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])";
const std::string kAsk = R"([{"role": "user", "content": "a"}])";

ChatTemplate make(const std::string& source) { return ChatTemplate(source, "{}", "t.jinja"); }

std::string error_of(const std::string& source, const std::string& messages, const RenderOptions& options = {}) {
  return QKR_MESSAGE_OF(make(source).render(messages, "null", options));
}

std::string text_of(const std::string& source, const std::string& extra = "{}", const std::string& special = "{}") {
  RenderOptions options;
  options.want_spans = false;
  options.allow_dropped = true;
  options.extra_json = extra;
  return ChatTemplate(source, special, "t.jinja").render(kAsk, "null", options).text;
}

std::vector<std::string> spans_of(const ChatTemplate& chat_template, const std::string& messages) {
  const Rendered rendered = chat_template.render(messages);
  std::vector<std::string> texts;
  for (const Span& span : rendered.assistant_spans)
    texts.push_back(rendered.text.substr(span.begin, span.end - span.begin));
  return texts;
}

TEST(ChatTemplate, RendersAndIsMovable) {
  ChatTemplate first = make(kPlain);
  const ChatTemplate second = std::move(first);
  EXPECT_EQ(second.render(kTurn).text, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n");
}

TEST(ChatTemplate, SyntaxErrorsNameTheLine) {
  EXPECT_EQ(QKR_MESSAGE_OF(make("a\n{% if %}\n")).substr(0, 24), "t.jinja:2: syntax error:");
  EXPECT_EQ(QKR_MESSAGE_OF(make("{% for m in messages %}")).substr(0, 10), "t.jinja:1:");
  EXPECT_EQ(error_of("\n\n{{ messages | no_such_filter }}", kTurn), "t.jinja:3: filter no_such_filter is unknown");
  EXPECT_EQ(error_of("\n{{ messages.no_such_method() }}", kTurn).substr(0, 10), "t.jinja:2:");
  EXPECT_EQ(error_of("{{ ''[::-1] }}", kTurn).find("t.jinja: the template engine gave up: "), 0u);  // its own mistake
  EXPECT_EQ(QKR_MESSAGE_OF(make("\xFF")), "t.jinja: the template must be UTF-8, got a bad byte at offset 0");
}

TEST(ChatTemplate, MessagesThatAreNoneAreNamed) {
  const auto refused = [](const std::string& messages) { return error_of(kPlain, messages); };
  EXPECT_EQ(refused("[]"), "messages must not be an empty list");
  EXPECT_EQ(refused("{}"), "messages must be a list, got an object");
  EXPECT_EQ(refused("[1]"), "message 0 must be an object, got a number");
  EXPECT_EQ(refused(R"([{"content": "a"}])"), "message 0: role must be given, got none");
  EXPECT_EQ(refused(R"([{"role": 1, "content": "a"}])"), "message 0: role must be a name, got a number");
  EXPECT_EQ(refused(R"([{"role": "", "content": "a"}])"), "message 0: role must be a name, got an empty string");
  EXPECT_EQ(refused(R"([{"role": "user"}])"), "message 0 (user): content must be a string, got none at all");
  EXPECT_EQ(refused(R"([{"role": "user", "content": null}])"),
            "message 0 (user): content must be a string, got null");
  EXPECT_EQ(refused(R"([{"role": "user", "content": [{"type": "text", "text": "q"}]}])"),
            "message 0 (user): content must be a string, got a list");
  EXPECT_EQ(
      refused(R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": []}])"),
      "message 1 (assistant): content must be a string, got null");
  EXPECT_NE(refused("[").find("messages must be JSON"), std::string::npos);
  EXPECT_NE(refused(std::string(100000, '[')).find("messages must be JSON"), std::string::npos);
  EXPECT_EQ(refused("[\"\xFF\"]"), "messages must be UTF-8, got a bad byte at offset 2");
}

TEST(ChatTemplate, NullContentBesideToolCallsIsTheTemplatesToJudge) {
  const std::string calls =
      R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": [{"id": 1}]}])";
  EXPECT_NE(error_of(kPlain, calls).find("(message 1 has tool calls and no content)"), std::string::npos);
  EXPECT_NE(error_of("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}", calls).find("a null value as text"),
            std::string::npos);
  const std::string aware =
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content or m.tool_calls | tojson }}<|end|>{% endfor %}";
  EXPECT_EQ(make(aware).render(calls).text, "<|user|>a<|end|><|assistant|>[{\"id\": 1}]<|end|>");
  EXPECT_EQ(spans_of(make(aware), calls), (std::vector<std::string>{"[{\"id\": 1}]<|end|>"}));
}

TEST(ChatTemplate, NumbersBeyondReachAreErrors) {
  const auto with = [](const std::string& number) {
    return R"([{"role": "user", "content": "a", "n": )" + number + "}]";
  };
  EXPECT_EQ(error_of(kPlain, with("1e999")), "message 0: n: number 1e+999 is not a finite float");
  EXPECT_NE(error_of(kPlain, with("1" + std::string(50, '0'))).find("has more than 128 bits"), std::string::npos);
  const std::string largest = "170141183460469231731687303715884105727";
  EXPECT_EQ(error_of(kPlain, with(largest)), "");
  EXPECT_EQ(text_of("{{ x }} {{ x | tojson }}", R"({"x": )" + largest + "}"), largest + " " + largest);
}

TEST(ChatTemplate, MessagesThatTheTemplateLeavesOutAreRefused) {
  const std::string picky =
      "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}";
  const std::string told =
      R"([{"role": "developer", "content": "a"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}])";
  EXPECT_EQ(error_of(picky, told),
            "message 0: role must be one that t.jinja writes, got \"developer\", which it leaves out");
  RenderOptions options;
  options.allow_dropped = true;
  EXPECT_EQ(make(picky).render(told, "null", options).text, "<|user|>a<|end|><|assistant|>a<|end|>");
  EXPECT_EQ(error_of(kPlain, told), "");  // this one writes any role
  const std::string first_only = "{{ messages[0].content }}";
  EXPECT_EQ(error_of(first_only, kTurn).substr(0, 10), "message 1:");
  // Asked once a shape, then remembered: the same template must still refuse another shape.
  const ChatTemplate chat_template = make(picky);
  EXPECT_EQ(QKR_MESSAGE_OF(chat_template.render(kTurn)), "");
  EXPECT_EQ(QKR_MESSAGE_OF(chat_template.render(kTurn)), "");
  EXPECT_NE(QKR_MESSAGE_OF(chat_template.render(told)), "");
  EXPECT_NE(QKR_MESSAGE_OF(chat_template.render(told)), "");
}

TEST(ChatTemplate, RaiseExceptionIsSaidInItsWords) {
  EXPECT_EQ(error_of("x\n{{ raise_exception('roles must\nalternate') }}", kTurn),
            "t.jinja:2: the template refuses the conversation: roles must alternate");
}

TEST(ChatTemplate, VariablesAreWhatTransformersGives) {
  const std::string special =
      R"({"bos_token": "<s>", "eos_token": "</s>", "pad_token": null, "additional_special_tokens": ["<x>"]})";
  EXPECT_EQ(text_of("{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}{{ additional_special_tokens[0] }}",
                    "{}", special),
            "<s></s>False<x>");
  EXPECT_EQ(text_of("{{ bos_token }}", R"({"bos_token": "mine"})", special), "mine");
  EXPECT_EQ(text_of("{{ tools is none }}{{ tools is defined }}{{ documents is none }}{{ add_generation_prompt }}"),
            "TrueTrueTrueFalse");
  EXPECT_EQ(text_of("{{ missing }}|{{ enable_thinking is defined and enable_thinking is false }}",
                    R"({"enable_thinking": false})"),
            "|True");
  EXPECT_EQ(text_of("a\r\n{{ 'b' }}\r\n"), "a\nb");  // line ends as Jinja2 reads them, the last one dropped
}

TEST(ChatTemplate, VariablesThatAreNoneAreNamed) {
  RenderOptions options;
  options.extra_json = R"({"messages": []})";
  EXPECT_EQ(error_of(kPlain, kTurn, options), "template variables must not hold messages");
  options.extra_json = "[]";
  EXPECT_EQ(error_of(kPlain, kTurn, options), "template variables must be an object, got a list");
  EXPECT_EQ(QKR_MESSAGE_OF(make(kPlain).render(kTurn, "{}")), "tools must be a list or null, got an object");
  EXPECT_EQ(QKR_MESSAGE_OF(ChatTemplate(kPlain, "3", "t.jinja")),
            "t.jinja: special tokens must be an object, got a number");
}

TEST(ChatTemplate, StrftimeNowIsLocalTime) {
  const auto now = [] {
    const std::time_t seconds = std::time(nullptr);
    char text[64];
    std::strftime(text, sizeof text, "%d %b %Y|%H:%M", std::localtime(&seconds));
    return std::string(text);
  };
  const std::string before = now();
  const std::string got = text_of("{{ strftime_now('%d %b %Y|%H:%M') }}");
  EXPECT_TRUE(got == before || got == now()) << got;
  EXPECT_EQ(text_of("[{{ strftime_now('') }}]"), "[]");
}

TEST(ChatTemplate, TemplatesWithoutEndAreStopped) {
  const std::string loop = "{% for i in range(90000) %}{% for j in range(90000) %}{{ 1 }}{% endfor %}{% endfor %}";
  EXPECT_NE(error_of(loop, kTurn).find("the template does not end"), std::string::npos);
  const std::string recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
  EXPECT_NE(error_of(recursion, kTurn), "");
  const std::string knot = "{% set ns = namespace() %}{% set ns.a = ns %}";
  EXPECT_NE(error_of(knot + "{{ ns | tojson }}", kTurn).find("nested more than"), std::string::npos);
  EXPECT_NE(error_of(knot + "{{ ns }}", kTurn).find("nested more than"), std::string::npos);
}

std::string repeated(const std::string& part, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += part;
  return text;
}

TEST(ChatTemplate, DeepSourcesNeitherOverflowTheStackNorAreTooLong) {
  const int n = 40000;
  for (const std::string& source : {
           "{{ " + repeated("1+", n) + "1 }}",
           "{{ " + repeated("-", n) + "1 }}",
           "{{ a" + repeated("|f", n) + " }}",
           "{{ a" + repeated(".b", n) + " }}",
           "{{ a" + repeated("()", n) + " }}",
           "{{ " + repeated("(", n) + " }}",
           "{{ " + repeated("[", n) + " }}",
           repeated("{%if a%}", n / 4),
           "{%if a%}" + repeated("{%elif b%}", n / 4) + "{%endif%}",
       }) {
    (void)QKR_MESSAGE_OF(make(source).render(kAsk));  // to be alive afterwards is the test
  }
  EXPECT_EQ(QKR_MESSAGE_OF(make(repeated("a", 131073))),
            "t.jinja: a template must have at most 131072 bytes, got 131073");
}

TEST(ChatTemplate, TemplatesThatDoNotShowSpansAreRefusedWithTheReason) {
  const auto why = [](const std::string& source) { return error_of(source, kTurn); };
  const std::string no_end = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}";
  EXPECT_NE(why(no_end).find("no end-of-turn marker follows"), std::string::npos) << why(no_end);
  const std::string sometimes =
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ '<|end|>' if not loop.last }}{% endfor %}";
  EXPECT_NE(why(sometimes).find("no end-of-turn marker follows"), std::string::npos);
  const std::string bare =
      "{% for m in messages %}{{ m.content }}</s>{% endfor %}";  // both roles alike, and no header
  EXPECT_EQ(spans_of(make(bare), kTurn), (std::vector<std::string>{"b</s>"}));
  const std::string twice =
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ m.content }}<|end|>{% endfor %}";
  EXPECT_NE(why(twice).find("once"), std::string::npos);
  EXPECT_EQ(why(no_end).find('\n'), std::string::npos);
  RenderOptions options;
  options.want_spans = false;
  EXPECT_EQ(error_of(no_end, kTurn, options), "");
  EXPECT_EQ(error_of(no_end, kAsk), "");  // nothing to show
}

// Collected output and a content that is cut at </think>: neither the counts nor the marks can tell.
TEST(ChatTemplate, WhatNeitherTechniqueSeesIsRefusedNotGuessed) {
  const std::string source =
      "{% set ns = namespace(out='') %}{% for m in messages %}{% set ns.out = ns.out + '<|' + m.role + '|>' + "
      "m.content.split('</think>')[-1] + '<|end|>' %}{% endfor %}{{ ns.out }}";
  EXPECT_EQ(spans_of(make(source), kTurn), (std::vector<std::string>{"b<|end|>"}));
  const std::string cut = R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "x</think>b"}])";
  EXPECT_NE(error_of(source, cut).find("does not show where an assistant message begins"), std::string::npos);
}

// The marks would change what this one writes, so where they stand says nothing about the text.
TEST(ChatTemplate, CollectedOutputThatLooksAtItsContentsIsRefused) {
  const std::string source =
      "{% set t %}{% for m in messages %}{{ 'short ' if m.content | length < 3 }}<|{{ m.role }}|>{{ m.content }}<|end|>"
      "{% endfor %}{% endset %}{{ t }}";
  EXPECT_NE(error_of(source, kTurn).find("depends on what a content begins or ends with"), std::string::npos);
}

TEST(ChatTemplate, CollectedOutputWithPrivateCharactersInTheTextIsRefused) {
  const std::string source =
      "{% set t %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% endset %}{{ t }}";
  EXPECT_EQ(spans_of(make(source), kTurn), (std::vector<std::string>{"b<|end|>"}));
  const std::string odd =
      "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\xF4\x80\x80\x80\"}]";
  EXPECT_NE(error_of(source, odd), "");
}

// A template that looks at contents before and after it writes them: the header check picks the right one of the
// counts.
TEST(ChatTemplate, ReadsBeforeAndAfterTheTurnDoNotMoveSpans) {
  const std::string source =
      "{% for m in messages %}{% if 'zzz' in m.content %}{{ '!' }}{% endif %}{% endfor %}"
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ m.tail }}<|end|>{{ '\n' }}{% endfor %}"
      "{% if messages[-1].content == 'nothing' %}{{ '?' }}{% endif %}";
  const std::string three = R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b<|end|>"},
    {"role": "user", "content": "<|assistant|>c<|end|>"}, {"role": "assistant", "content": "<|assistant|>"}])";
  EXPECT_EQ(spans_of(make(source), three), (std::vector<std::string>{"b<|end|><|end|>", "<|assistant|><|end|>"}));
}

TEST(ChatTemplate, GenerationBlocksWinOverEverythingElse) {
  const std::string source =
      "{% for m in messages %}{% if m.role == 'assistant' %}A{% generation %}{{ m.content }}{% endgeneration %}.{% else %}"
      "U{{ m.content }}{% endif %}{% endfor %}";
  EXPECT_EQ(spans_of(make(source), kTurn), (std::vector<std::string>{"b"}));
  const std::string odd =
      "[{\"role\": \"user\", \"content\": \"\xF4\x80\x80\x80\"}, {\"role\": \"assistant\", \"content\": \"b\xF4\x80\x80\x81\"}]";
  EXPECT_EQ(spans_of(make(source), odd), (std::vector<std::string>{"b\xF4\x80\x80\x81"}));
  const std::string changed =
      "{% set t %}{% generation %}{{ messages[1].content }} {% endgeneration %}{% endset %}{{ messages[0].content }}{{ t | trim }}";
  EXPECT_NE(error_of(changed, kTurn).find("changes the text of a generation block"), std::string::npos);
}

TEST(ChatTemplate, GenerationTagsInCommentsAndStringsAreNone) {
  const std::string turns = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}";
  for (const char* lead : {"{# {% generation %}{% endgeneration %} #}", "{{ '' if '{% generation %}' else '' }}"}) {
    EXPECT_EQ(spans_of(make(lead + turns), kTurn), (std::vector<std::string>{"b<|end|>"})) << lead;
  }
}

// What a served model is given ends with the prompt; what it must write begins there, inside a marker or not.
TEST(ChatTemplate, TheHeaderEndsWhereTheTurnAndThePromptPart) {
  const std::string source =
      "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}<|end|>{% else %}<|bot|><answer>{{ m.content }}"
      "</answer><|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|bot|><think>{% endif %}";
  EXPECT_EQ(spans_of(make(source), kTurn), (std::vector<std::string>{"<answer>b</answer><|end|>"}));
}

TEST(ChatTemplate, RendersFromSeveralThreads) {
  const ChatTemplate chat_template = make(kPlain);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i)
        wrong += spans_of(chat_template, kTurn) != std::vector<std::string>{"b<|im_end|>"};
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace qkr::test
