#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "tests/io/support.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"
#include "trainer/io/json_lines.h"
#include "trainer/io/json_text.h"

namespace qkr::test {
namespace {

using nlohmann::json;

std::string refusal(const std::string& text) { return QKR_MESSAGE_OF(parse_json(text, "f")); }

TEST(ParseJson, ReadsAndKeepsOrderWhereAsked) {
  EXPECT_EQ(parse_json(R"( {"b": [1, -2.5, "é", null, true], "a": {}} )", "f"), json::parse(R"({"b":[1,-2.5,"é",null,true],"a":{}})"));
  EXPECT_EQ(parse_json<nlohmann::ordered_json>(R"({"b":1,"a":2})", "f").dump(), R"({"b":1,"a":2})");
  EXPECT_EQ(parse_json(R"({"a":{"x":1},"b":{"x":2}})", "f")["b"]["x"], 2);  // the same key in two objects
  EXPECT_EQ(parse_json(R"([{"x":{"x":1}},{"x":2}])", "f")[1]["x"], 2);
  EXPECT_EQ(parse_json("18446744073709551615", "f").get<uint64_t>(), std::numeric_limits<uint64_t>::max());
}

TEST(ParseJson, NamesThePlaceAndTheRule) {
  struct Case {
    std::string text, want;
  };
  const Case cases[] = {
      {"", "f:1:1: must be JSON, got unexpected end of input"},
      {"{\n \"a\": tru\n}", "f:2:10: must be JSON, got invalid literal"},
      {"{\"a\": 1,}", "f:1:9: must be JSON, got unexpected '}'; expected string literal"},
      {"{\"a\" 1}", "must be JSON, got unexpected number literal; expected ':'"},
      {"[1] 2", "f:1:5: must be JSON, got unexpected number literal; expected end of input"},
      {"{\"a\": 1", "f:1:8: must be JSON, got unexpected end of input"},
      {"\"\\ud800\"", "must be JSON, got invalid string: surrogate"},
      {"[1e999]", "must be JSON, got number overflow parsing '1e999'"},
      {"[NaN]", "f:1:2: must be JSON, got invalid literal"},
      {"['a']", "f:1:2: must be JSON, got invalid literal"},
      {std::string("{}\0{}", 5), "f:1:3: must be JSON, got a NUL byte"},
      {"{\"a\": \"\xFF\"}", "f:1:8: must be UTF-8, got byte 255"},
      {"{\n\"k\": \"\xC3\"}", "f:2:7: must be UTF-8, got byte 195"},
      {"{\"a\": 1, \"b\": {\"c\": 1, \"c\": 2}}", "f:1: must give each key once, got 'c' twice in one object"},
      {"{\"a\": [{}], \"\\u0061\": 2}", "f:1: must give each key once, got 'a' twice"},
      {std::string(300, '['), "f:1: must be nested at most 200 deep, got more"},
      {std::string(3'000'000, '['), "f:1: must be nested at most 200 deep, got more"},
  };
  for (const Case& c : cases) {
    const std::string got = refusal(c.text);
    EXPECT_NE(got.find(c.want), std::string::npos) << c.text.substr(0, 40) << "\n got " << got;
    EXPECT_LT(got.size(), 200u);
    EXPECT_EQ(got.find('\n'), std::string::npos);
  }
  EXPECT_EQ(refusal(std::string(199, '[') + std::string(199, ']')), "");
}

TEST(ReadJsonFile, NamesTheFile) {
  const TmpDir dir;
  EXPECT_EQ(read_json_file(dir.write("a.json", "{\"x\": 1}\n"))["x"], 1);
  EXPECT_EQ(QKR_MESSAGE_OF(read_json_file(dir.write("b.json", "{\n!"))).find((dir / "b.json").string() + ":2:1: must be JSON"), 0u);
  EXPECT_EQ(QKR_MESSAGE_OF(read_json_file(dir / "c.json")), (dir / "c.json").string() + ": must exist, got no such file");
}

TEST(JsonLines, RoundTripAndAppend) {
  const TmpDir dir;
  const fs::path path = dir / "log.jsonl";
  {
    JsonLinesWriter writer(path);
    writer.write_row(json{{"step", 1}, {"text", "a\nb\u2028é"}});
    EXPECT_EQ(read_file(path), "{\"step\":1,\"text\":\"a\\nb\u2028é\"}\n");  // there before the writer goes
    writer.write_row(nlohmann::ordered_json::parse(R"({"z":1,"a":2})"));
  }
  JsonLinesWriter(path).write_row(json{{"loss", std::nan("")}, {"bad", "\xFF"}});
  EXPECT_EQ(read_file(path).substr(read_file(path).find("{\"z")), "{\"z\":1,\"a\":2}\n{\"bad\":\"\uFFFD\",\"loss\":null}\n");

  JsonLinesReader reader(path);
  ASSERT_TRUE(reader.next());
  EXPECT_EQ(reader.row()["text"], "a\nb\u2028é");
  EXPECT_EQ(reader.line(), 1);
  ASSERT_TRUE(reader.next());
  EXPECT_EQ(reader.text(), R"({"z":1,"a":2})");
  ASSERT_TRUE(reader.next());
  EXPECT_EQ(reader.line(), 3);
  EXPECT_EQ(reader.end_offset(), fs::file_size(path));
  EXPECT_FALSE(reader.next());
  EXPECT_FALSE(reader.next());
}

TEST(JsonLines, SkipsBlankLinesAndCountsThem) {
  const TmpDir dir;
  JsonLinesReader reader(dir.write("a.jsonl", "\n1\r\n \t\n2"));
  ASSERT_TRUE(reader.next());
  EXPECT_EQ(reader.line(), 2);
  ASSERT_TRUE(reader.next());  // without a newline at the end, as editors leave it
  EXPECT_EQ(reader.row(), 2);
  EXPECT_EQ(reader.line(), 4);
  EXPECT_FALSE(reader.next());
  EXPECT_FALSE(JsonLinesReader(dir.write("empty.jsonl", "")).next());
}

TEST(JsonLines, NamesFileLineAndByte) {
  const TmpDir dir;
  const fs::path path = dir.write("a.jsonl", "{\"a\":1}\n{\"a\":\"\xE9\"}\n");
  JsonLinesReader reader(path);
  EXPECT_TRUE(reader.next());
  EXPECT_EQ(QKR_MESSAGE_OF(reader.next()), path.string() + ":2:7: must be UTF-8, got byte 233");
  JsonLinesReader syntax(dir.write("b.jsonl", "1\n\n{\"a\":}\n"));
  EXPECT_TRUE(syntax.next());
  EXPECT_EQ(QKR_MESSAGE_OF(syntax.next()).find((dir / "b.jsonl").string() + ":3:6: must be JSON, got unexpected '}'"), 0u);
  JsonLinesReader large(path, {.max_line_bytes = 6});
  EXPECT_EQ(QKR_MESSAGE_OF(large.next()), path.string() + ":1: must be at most 6 B long, got 7 B");
  EXPECT_EQ(QKR_MESSAGE_OF(JsonLinesReader(dir.path())), dir.path().string() + ": must be a regular file, got a folder");
}

TEST(JsonLines, ATornEndIsAnErrorUnlessAllowed) {
  const TmpDir dir;
  const fs::path path = dir.write("a.jsonl", "{\"a\":1}\n{\"a\":");
  JsonLinesReader strict(path);
  EXPECT_TRUE(strict.next());
  EXPECT_NE(QKR_MESSAGE_OF(strict.next()).find(":2:6: must be JSON, got unexpected end of input"), std::string::npos);
  JsonLinesReader tolerant(path, {.allow_torn_end = true});
  EXPECT_TRUE(tolerant.next());
  EXPECT_FALSE(tolerant.next());
  EXPECT_EQ(tolerant.end_offset(), 8u);
  JsonLinesReader inside(dir.write("b.jsonl", "{\"a\":\n{\"a\":1}\n"), {.allow_torn_end = true});  // not the end
  EXPECT_NE(QKR_MESSAGE_OF(inside.next()), "");
}

TEST(JsonLines, TheWriterCutsATornEndAndEndsAWholeLine) {
  const TmpDir dir;
  const fs::path torn = dir.write("torn.jsonl", "{\"a\":1}\n{\"a\":");
  JsonLinesWriter(torn).write_row(json{{"a", 3}});
  EXPECT_EQ(read_file(torn), "{\"a\":1}\n{\"a\":3}\n");
  const fs::path whole = dir.write("whole.jsonl", "{\"a\":1}\n{\"a\":2}");
  JsonLinesWriter(whole).write_row(json{{"a", 3}});
  EXPECT_EQ(read_file(whole), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
  const fs::path all = dir.write("all.jsonl", "{\"a");
  JsonLinesWriter(all).write_row(json{{"a", 3}});
  EXPECT_EQ(read_file(all), "{\"a\":3}\n");
}

TEST(JsonLines, KeepsLeadingLinesForAResume) {
  const TmpDir dir;
  const auto until_2 = [](const json& row) { return row["step"] <= 2; };
  const fs::path path = dir.write("log.jsonl", "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":1}\n{\"st");
  EXPECT_EQ(keep_lines_while(path, until_2), 2);
  EXPECT_EQ(read_file(path), "{\"step\":1}\n{\"step\":2}\n");
  EXPECT_EQ(keep_lines_while(path, until_2), 2);
  EXPECT_EQ(keep_lines_while(path, [](const json&) { return false; }), 0);
  EXPECT_EQ(read_file(path), "");
  EXPECT_EQ(keep_lines_while(dir / "none.jsonl", until_2), 0);
  EXPECT_FALSE(fs::exists(dir / "none.jsonl"));
  const fs::path other = dir.write("other.jsonl", "{\"step\":1}\n[1]\n");
  const std::string message = QKR_MESSAGE_OF(keep_lines_while(other, until_2));
  EXPECT_EQ(message.rfind(other.string() + ":2: must be a row that a run has written, got ", 0), 0u) << message;
  EXPECT_EQ(read_file(other), "{\"step\":1}\n[1]\n");
  const fs::path torn = dir.write("torn.jsonl", "{\"step\":1}\n{\"st");
  EXPECT_EQ(keep_lines_while(torn, until_2), 1);
  EXPECT_EQ(read_file(torn), "{\"step\":1}\n");
}

TEST(JsonLines, AFullDiskIsARunFailure) {
  const TmpDir dir;
  JsonLinesWriter writer(dir / "log.jsonl");
  const FileSizeLimit disk(100);
  writer.write_row(json{{"a", 1}});
  const std::string message = QKR_MESSAGE_OF(writer.write_row(json{{"a", std::string(200, 'x')}}));
  EXPECT_EQ(message.find((dir / "log.jsonl").string() + ": must be written, got File too large ("), 0u) << message;
}

}  // namespace
}  // namespace qkr::test
