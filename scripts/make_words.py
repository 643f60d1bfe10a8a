#!/usr/bin/env python3
"""Writes trainer/probe/words_data.cpp from third_party/wonderwords/words.json: the word lists as C++ string literals.

Run from the repository root: python3 scripts/make_words.py
"""
import json
import pathlib
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent


def literal(name: str, words: list[str]) -> str:
    assert not any("," in word or "\n" in word or ')"' in word for word in words)
    # A blank inside a word must not be a place to wrap at.
    lines = textwrap.wrap(", ".join(word.replace(" ", "\0") for word in words), 112, break_on_hyphens=False)
    body = "\n".join(line.replace(", ", ",").replace("\0", " ") for line in lines)
    return f'const std::string_view {name} = R"({body})";\n'


def main() -> None:
    words = json.loads((ROOT / "third_party/wonderwords/words.json").read_text())
    text = "// Made by scripts/make_words.py from third_party/wonderwords (MIT): commas between words, newlines mean nothing.\n"
    text += '#include "trainer/probe/words.h"\n\nnamespace qkr {\n\n'
    text += literal("kAdjectiveList", words["adjectives"]) + "\n" + literal("kNounList", words["nouns"])
    text += "\n}  // namespace qkr\n"
    (ROOT / "trainer/probe/words_data.cpp").write_text(text)


if __name__ == "__main__":
    main()
