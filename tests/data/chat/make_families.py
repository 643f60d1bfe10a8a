#!/usr/bin/env python3
"""Makes families.jsonl: small chat templates of our own in the manner of well-known ones, rendered by Jinja2 (3.1, set up as
transformers sets it up). ⟪ and ⟫ in a template stand where an assistant's span begins and ends; they are taken out of what the
test gets, and in the rendering they say where the spans are. So the truth does not come from the code under test."""
import json
import os

import jinja2
from jinja2 import ext, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)

    def _support(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


ENV = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols])
ENV.filters["tojson"] = tojson
ENV.globals["raise_exception"] = raise_exception

CHATML = """{% for message in messages %}
{% if loop.first and messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\\nYou are a small model.<|im_end|>\\n' }}
{% endif %}
{% if message['role'] == 'assistant' %}
{{ '<|im_start|>' + message['role'] + '\\n⟪' + message['content'] + '<|im_end|>⟫' + '\\n' }}
{% else %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}"""

LLAMA3 = """{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + ('⟪' if message.role == 'assistant' else '') + message['content'] | trim + '<|eot_id|>' + ('⟫' if message.role == 'assistant' else '') %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}⟪{{ ' ' + content.strip() + ' ' + eos_token }}⟫{% endif %}{% endfor %}"""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'assistant') %}
{% set role = 'model' %}
{% else %}
{% set role = message['role'] %}
{% endif %}
{{ '<start_of_turn>' + role + '\\n' + ('⟪' if role == 'model' else '') + message['content'] | trim + '<end_of_turn>' + ('⟫' if role == 'model' else '') + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<start_of_turn>model\\n' }}
{% endif %}"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n⟪' + message['content'] + eos_token + '⟫' }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

PHI = """{% for message in messages %}{{ '<|' }}{{ message.role }}{{ '|>\\n' }}{% if message.role == 'assistant' %}⟪{% endif %}{{ message.content }}{{ '<|end|>' }}{% if message.role == 'assistant' %}⟫{% endif %}
{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

VICUNA = """{% for message in messages %}{% if message.role == 'system' %}{{ message.content + ' ' }}{% elif message.role == 'user' %}{{ 'USER: ' + message.content + ' ' }}{% else %}{{ 'ASSISTANT:⟪ ' + message.content + eos_token }}⟫{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

NO_PROMPT = """{% for m in messages %}{{ '<|im_start|>' }}{{ m.role }}{{ '\\n' }}{% if m.role == 'assistant' %}⟪{% endif %}{{ m.content }}<|im_end|>{% if m.role == 'assistant' %}⟫{% endif %}

{% endfor %}"""

THINK = """{%- macro turn(role, body) %}{{ '<|im_start|>' + role + '\\n' + body + '<|im_end|>' + ('⟫' if role == 'assistant' else '') + '\\n' }}{% endmacro %}
{%- set ns = namespace(last_user=-1) %}
{%- for message in messages[::-1] %}
    {%- set index = messages|length - 1 - loop.index0 %}
    {%- if ns.last_user < 0 and message.role == 'user' %}{% set ns.last_user = index %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set thought = message.reasoning_content or '' %}
        {%- set answer = message.content %}
        {%- if not thought and '</think>' in answer %}
            {%- set thought = answer.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set answer = answer.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_user %}
            {{- turn('assistant', '⟪<think>\\n' + thought + '\\n</think>\\n\\n' + answer) }}
        {%- else %}
            {{- turn('assistant', '⟪' + answer) }}
        {%- endif %}
    {%- elif message.role in ['user', 'system'] %}
        {{- turn(message.role, message.content) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""

COLLECT = """{% set ns = namespace(out='') %}{% for m in messages %}{% set ns.out = ns.out + '<|' + m.role + '|>\\n' + ('⟪' if m.role == 'assistant' else '') + m.content | trim + '<|end|>' + ('⟫' if m.role == 'assistant' else '') + '\\n' %}{% endfor %}{{ ns.out }}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

TOOLS = """{% if tools %}{{ '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}{{ '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>tool\\n' }}{{ message.content }}{{ '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' and message.tool_calls %}
        {{- '<|im_start|>assistant\\n' }}⟪
        {%- for call in message.tool_calls %}
            {{- '<call>' + (call.function | tojson) + '</call>' }}
        {%- endfor %}
        {{- '<|im_end|>' }}⟫{{ '\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}⟪{{ message.content }}{{ '<|im_end|>' }}⟫{{ '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

TAGGED = """{#- {% generation %} in a comment is none -#}
{% for m in messages %}
{%- if m.role == 'assistant' %}
{{ '<|bot|>' }}{%- generation -%} ⟪{{ m.content }}<|stop|>⟫ {%- endgeneration %}

{% else %}
{{ "{% generation %}" if m.content == 'quote' else '' }}{{ '<|' ~ m.role ~ '|>' ~ m.content }}
{% endif %}
{%- endfor %}"""

TAGGED_COLLECT = """{% set text %}{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}⟪ {{ m.content }}#⟫{% endgeneration %}{% else %}U: {{ m.content }}{% endif %}
{% endfor %}{% endset %}{{ text | trim }}{% raw %}{% generation %}{% endraw %}"""


def user(text):
    return {"role": "user", "content": text}


def bot(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2.0, 1e-7, None, True], "c": "é<\"\n"}}}
TURNS = {
    "one": [user("Which river?"), bot("The Danube.")],
    "three": [user("a"), bot("b"), user("c"), bot("d"), user("e"), bot("f")],
    "asked": [user("a"), bot("b"), user("c")],
    "spaces": [user(" x \n"), bot("\n\n y\n"), user("\t"), bot("  z  ")],
    "unicode": [user("né 🦊"), bot("ß漢字\u2028end"), user("ü"), bot("\U0001F9EA")],
}
TYPED = {
    "typed-user": [user("<|im_end|>\n<|im_start|>assistant\n<|assistant|>\n<|end|></s>"), bot("no"),
                   user("[/INST] <start_of_turn>model\n<|bot|> ASSISTANT:"), bot("still no")],
    "typed-bot": [user("say the markers"), bot("<|im_end|>\n<|im_start|>assistant\n<|eot_id|><|end|></s><end_of_turn>"),
                  user("again"), bot("[INST] <|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n")],
}
SYSTEM = {"system": [system("Be brief."), user("a"), bot("b")]}
LOOSE = {
    "bot-first": [bot("hello"), user("a"), bot("b")],
    "two-bots": [user("a"), bot("b"), bot("c")],
    "empty": [user(""), bot(""), user(" "), bot(" ")],
}
THINKING = {
    "inline": [user("a"), bot("<think>\nlong\n</think>\n\nb"), user("c"), bot("<think>why</think>d")],
    "field": [user("a"), bot("b", reasoning_content="r1"), user("c"), bot("d", reasoning_content="<|im_end|> r2")],
    "typed-think": [user("a"), bot("<|im_start|>assistant\n</think>x<|im_start|>assistant\n"), user("c"), bot("</think>")],
}
TOOL = {
    "calls": [user("1+2?"), bot("", tool_calls=[CALL]), {"role": "tool", "content": "3"}, bot("It is 3."), user("ok"), bot("!")],
    "null": [user("q"), bot(None, tool_calls=[CALL, CALL]), {"role": "tool", "content": "<|im_end|>"}, bot("done")],
    "absent": [user("q"), {"role": "assistant", "tool_calls": [CALL]}],
}
DECLARED = [{"type": "function", "function": {"name": "add", "parameters": {"big": 123456789012345678901234567890, "x": 1e22}}}]

FAMILIES = [
    ("chatml", CHATML, {**TURNS, **TYPED, **SYSTEM, **LOOSE}, None),
    ("llama3", LLAMA3, {**TURNS, **TYPED, **SYSTEM, **LOOSE}, None),
    ("llama2", LLAMA2, {**TURNS, **TYPED, **SYSTEM}, None),
    ("gemma", GEMMA, {**TURNS, **TYPED, **LOOSE}, None),
    ("zephyr", ZEPHYR, {**TURNS, **TYPED, **SYSTEM}, None),
    ("phi", PHI, {**TURNS, **TYPED, **SYSTEM, **LOOSE}, None),
    ("vicuna", VICUNA, {**TURNS, **TYPED, **SYSTEM}, None),
    ("no-prompt", NO_PROMPT, {**TURNS, **TYPED, **LOOSE}, None),
    ("think", THINK, {**TURNS, **TYPED, **SYSTEM, **THINKING}, None),
    ("collect", COLLECT, {**TURNS, "typed-user": TYPED["typed-user"], **SYSTEM}, None),
    ("tools", TOOLS, {**TOOL, **TYPED}, DECLARED),
    ("tagged", TAGGED, {**TURNS, "quote": [user("quote"), bot("x")], **LOOSE}, None),
    ("tagged-collect", TAGGED_COLLECT, TURNS, None),
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": None}


def spans_of(marked):
    plain, spans, begin = b"", [], None
    for c in marked:
        if c == "⟪":
            begin = len(plain)
        elif c == "⟫":
            spans.append([begin, len(plain)])
        else:
            plain += c.encode()
    return plain.decode(), spans


# Single expressions over `messages` and `x`: Python's habits that templates lean on.
EXPRESSIONS = [
    "{{ 1.0 }} {{ 1e-7 }} {{ 1e22 }} {{ 123456789.125 }} {{ -0.0 }} {{ 1/3 }} {{ 1e15 }} {{ 1e16 }} {{ 0.0001 }}",
    "{{ 7//2 }} {{ -7//2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 2 * 3.5 }} {{ 7 / 2 }}",
    "{{ true }} {{ false }} {{ [1, 'a', none, 2.5, true] }} {{ {'a': [1], 'b': \"it's\"} }} {{ x }}",
    "[{{ '\x1c a\u2003\x1f'.strip() }}] [{{ '\n\n a \n'.strip('\n') }}] [{{ ' a '.rstrip() }}] [{{ ' a ' | trim }}] [{{ 'xax' | trim('x') }}]",
    "{{ 'x' is sequence }} {{ {} is sequence }} {{ 1 is sequence }} {{ none is iterable }} {{ 'x' is iterable }} {{ [] is iterable }}",
    "{{ 'x' is string and 1 is number and true is number and true is boolean }} {{ true is integer }} {{ messages[0] is mapping }} {{ messages[0] is string }}",
    "{{ 'abc'.count('') }} {{ 'banana'.count('an') }} {{ ''.isspace() }} {{ ' '.isspace() }} {{ ''.isdigit() }} {{ '12'.isdigit() }}",
    "{{ 'a,b,c'.rsplit(',', 1) }} {{ 'a b  c'.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a--b'.partition('--')[2] }} {{ 'ab'.removeprefix('a') }} {{ 'ab'.removesuffix('b') }}",
    "{{ 'abc'[::-1] }} {{ 'abc'[-2:] }} {{ 'abc'[0] }} {{ 'ab' * 3 }} {{ 'a' in 'abc' }} {{ not 'x' in ['x'] }} {{ 'é🦊'|length }}",
    "{{ 'hello World'.title() }} {{ 'hello World'.capitalize() }} {{ 'aB'.upper() }} {{ 'aB' | lower }} {{ 'abab'.replace('a', 'x', 1) }} {{ 'abc'.find('z') }}",
    "{{ messages[1:] | length }} {{ messages[:-1][0].content }} {{ messages[-1]['content'] }} {{ (messages | last).role }} {{ (messages|first).role }}",
    "{% for m in messages[1:] %}{{ loop.index0 }}{{ m.content }}{{ loop.last }}{% endfor %} {% for m in messages[::-1] %}{{ m.content }}{% endfor %}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | map(attribute='content') | join('|') }} {{ messages | rejectattr('role', '==', 'user') | map(attribute='role') | list }}",
    "{{ messages[0].get('name', 'nobody') }} {{ messages[0].get('content') }} {{ 'content' in messages[0] }} {{ 'name' in messages[0] }} {{ messages[0].name is defined }}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %} {{ messages[0].keys() | list }} {{ messages[0] | length }}",
    "{{ messages[0] }} {{ messages[0] == messages[0] }} {{ messages[0] == messages[1] }} {{ messages[0] | tojson }}",
    "{{ messages | tojson(indent=2) }} {{ x | tojson(sort_keys=true, separators=(',', ':')) }} {{ x | tojson(ensure_ascii=True) }} {{ [] | tojson(indent=1) }} {{ {} | tojson(indent=1) }}",
    "{{ x | tojson }} {{ x.list | tojson(indent=4) }} {{ 'a\u2028</script>&\x7f\x01' | tojson }}",
    "{{ 'a' ~ 1 ~ true ~ none }} {{ x.missing }} {{ x.missing or 'no' }} {{ x['k'] }} {{ missing is defined }} {{ missing | default('d') }} {{ '' | default('e', true) }}",
    "{{ range(3) | list }} {{ [3,1,2] | sort | join(',') }} {{ [1,2] + [3] }} {{ 'a' if 1 > 2 else 'b' }} {{ 'a' if 1 > 2 }} {{ x.list[-1] }} {{ x.list | length }}",
    "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "{%- set ns = namespace(n=1, found=false) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }} {{ ns.found }}",
    "{% macro f(a, b='z') %}<{{ a }}{{ b }}>{% endmacro %}{{ f('x') }}{{ f('x', b='y') }}{{ f('q') | length }}",
    "{% macro g() %}[{{ caller() }}]{% endmacro %}{% call g() %}in{% endcall %} {% set t %}cap{{ 1 }}{% endset %}{{ t | upper }}",
    "  {% if true %}\n  a\n  {% endif %}\n{#- c -#}\n  b {{- 'c' -}}  \n d\n",
    "{% if messages[0].content is string and messages[0]['content'].startswith('h') and not messages[0].content.endswith('h') %}yes{% endif %} {{ 'abc'.startswith(('x', 'a')) }}",
    "{% for item in x.list %}{{ item }}{{ ', ' if not loop.last else '.' }}{% else %}none{% endfor %} {{ x.list | first }} {{ x.list is iterable and x.list is not string and x.list is not mapping }}",
    "{{ '%s is %d' | format('a', 3) }} {{ 'a\nb'.splitlines() | length }} {{ 'a\nb' | indent(2) }} {{ 'a\nb' | indent(width=4, first=True) }} {{ 3 | string + 'x' }} {{ '3' | int + 1 }}",
    "[{{ '{\\n' | indent(4, first=True) }}] [{{ '\\na\\n\\nb' | indent(2, blank=true) }}] [{{ 'a\\r\\nb\\u2028c' | indent('>', true) }}] {{ 'a\\r\\n\\rb\\n'.splitlines(true) }} [{{ '' | indent }}]",
    "{% filter upper %}abc{% endfilter %} {% with a = 1 %}{{ a }}{% endwith %} {{ x | items | list | length }} {{ dict(a=1)['a'] }} {{ ['a', 'b'] | reverse | list }} {{ [1, 1, 2] | unique | list }}",
]
EXPRESSION_MESSAGES = [user("hi"), bot("yo", weight=0.5), user("end")]
EXPRESSION_X = {"k": "v", "n": None, "f": 1.5, "big": 2**100, "list": ["p", "q's", "é"], "neg": -3, "nest": {"b": 1, "a": [{}]}}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    known = {k: v for k, v in SPECIAL.items() if v is not None}
    with open(os.path.join(here, "families.jsonl"), "w", encoding="utf-8") as out:
        for name, source, conversations, tools in FAMILIES:
            plain = source.replace("⟪", "").replace("⟫", "")
            cases = []
            for case, messages in conversations.items():
                for ask in (False, True):
                    given = dict(messages=messages, tools=tools, documents=None, add_generation_prompt=ask, **known)
                    text, spans = spans_of(ENV.from_string(source).render(**given))
                    assert ENV.from_string(plain).render(**given) == text, (name, case)
                    cases.append(dict(case=case, ask=ask, messages=messages, text=text, spans=spans))
            row = dict(family=name, template=plain, special=SPECIAL, tools=tools, cases=cases)
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    with open(os.path.join(here, "expressions.jsonl"), "w", encoding="utf-8") as out:
        for source in EXPRESSIONS:
            text = ENV.from_string(source).render(messages=EXPRESSION_MESSAGES, x=EXPRESSION_X, tools=None, documents=None)
            row = dict(template=source, messages=EXPRESSION_MESSAGES, extra=dict(x=EXPRESSION_X), text=text)
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


main()
