#!/usr/bin/env python3
"""Writes trainer/probe/unicode_data.cpp: what Python's str.lower() does, as tables, read off the Python that runs this.

RULER lower-cases with Python, so Python is the truth. Run from the repository root: python3 scripts/make_unicode.py
"""
import pathlib
import unicodedata

ROOT = pathlib.Path(__file__).resolve().parent.parent
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def lower_ranges() -> list[tuple[int, int, int, int]]:
    """(first, last, stride, delta): code points first, first + stride, ... last become themselves + delta."""
    pairs = [(c, ord(chr(c).lower())) for c in CODE_POINTS if chr(c).lower() != chr(c) and len(chr(c).lower()) == 1]
    ranges, start = [], 0
    while start < len(pairs):
        first, delta = pairs[start][0], pairs[start][1] - pairs[start][0]
        best, best_stride = start, 1
        for stride in (1, 2):
            end = start
            while end + 1 < len(pairs) and pairs[end + 1] == (pairs[end][0] + stride, pairs[end][0] + stride + delta):
                end += 1
            if end > best:
                best, best_stride = end, stride
        ranges.append((first, pairs[best][0], best_stride, delta))
        start = best + 1
    return ranges


def runs(code_points: list[int]) -> list[tuple[int, int]]:
    found: list[list[int]] = []
    for c in code_points:
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return [tuple(run) for run in found]


def table(kind: str, name: str, rows: list[tuple[int, ...]]) -> str:
    lines, line = [], "   "
    for row in rows:
        item = " {" + ", ".join(str(value) for value in row) + "},"
        if len(line) + len(item) > 112:
            lines.append(line)
            line = "   "
        line += item
    lines.append(line)
    return f"const {kind} {name}[{len(rows)}] = {{\n" + "\n".join(lines) + "\n};\n"


def main() -> None:
    # A sigma is final after a cased letter with only ignorable ones between: that shows both sets.
    cased = [c for c in CODE_POINTS if (chr(c) + "Σ").lower().endswith("ς")]
    known = set(cased)
    ignorable = [c for c in CODE_POINTS if c not in known and ("A" + chr(c) + "Σ").lower().endswith("ς")]
    lower = lower_ranges()
    text = f"// Made by scripts/make_unicode.py: str.lower() of Python, Unicode {unicodedata.unidata_version}.\n"
    text += '#include "trainer/probe/unicode_data.h"\n\nnamespace qkr {\n\n'
    for kind, name, rows in (("LowerRange", "kLowerRanges", lower), ("CodeRange", "kCased", runs(cased)),
                             ("CodeRange", "kCaseIgnorable", runs(ignorable))):
        text += table(kind, name, rows) + f"const int {name}Count = {len(rows)};\n\n"
    (ROOT / "trainer/probe/unicode_data.cpp").write_text(text + "}  // namespace qkr\n")


if __name__ == "__main__":
    main()
