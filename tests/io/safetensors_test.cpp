#include "trainer/io/safetensors.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/io/support.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"

namespace qkr::test {
namespace {

const at::ScalarType kTypes[] = {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong,
                                 at::kInt,    at::kShort, at::kChar, at::kByte,     at::kBool};

std::string bytes_of(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.contiguous();
  return {static_cast<const char*>(dense.const_data_ptr()), dense.nbytes()};
}

// Shape, dtype and every bit (NaN payloads too).
void expect_same(const at::Tensor& got, const at::Tensor& want) {
  ASSERT_EQ(got.scalar_type(), want.scalar_type());
  ASSERT_EQ(got.sizes(), want.sizes());
  EXPECT_TRUE(bytes_of(got) == bytes_of(want));
}

NamedTensors every_dtype() {
  NamedTensors tensors;
  for (const at::ScalarType type : kTypes) {
    const at::Tensor t = type == at::kBool ? at::arange(12).remainder(2).to(type) : (at::arange(12) - 3).to(type);
    tensors.set(std::string("w.") + at::toString(type), t.view({3, 4}));
  }
  tensors.set("scalar", at::scalar_tensor(2.5));
  tensors.set("empty", at::empty({0, 4}, at::kHalf));
  tensors.set("empty.too", at::empty({3, 0}));
  tensors.set("nan", at::full({2}, std::nan("")));
  return tensors;
}

TEST(Safetensors, RoundTripOfEveryDtype) {
  const TmpDir dir;
  const NamedTensors tensors = every_dtype();
  const int64_t bytes = write_safetensors(dir / "a.safetensors", tensors, {{"format", "pt"}, {"é", "\"\n"}});
  EXPECT_EQ(bytes, static_cast<int64_t>(fs::file_size(dir / "a.safetensors")));
  const SafetensorsFile file(dir / "a.safetensors");
  EXPECT_EQ(file.names().size(), tensors.size());
  EXPECT_EQ(file.metadata(), (SafetensorsMetadata{{"format", "pt"}, {"é", "\"\n"}}));
  EXPECT_EQ(file.total_bytes(), tensor_bytes(tensors));
  for (const auto& [name, tensor] : tensors) {
    SCOPED_TRACE(name);
    expect_same(file.tensor(name), tensor);
    EXPECT_EQ(file.dtype(name), safetensors_name(tensor.scalar_type()));
    EXPECT_EQ(file.shape(name), tensor.sizes().vec());
  }
}

TEST(Safetensors, ReadingCopiesNothing) {
  const TmpDir dir;
  write_safetensors(dir / "a.safetensors", every_dtype());
  const SafetensorsFile file(dir / "a.safetensors");
  EXPECT_EQ(file.tensor("w.Float").const_data_ptr(), file.tensor("w.Float").const_data_ptr());
}

TEST(Safetensors, ATensorOutlivesItsFile) {
  const TmpDir dir;
  write_safetensors(dir / "a.safetensors", every_dtype());
  at::Tensor view;
  {
    const SafetensorsFile file(dir / "a.safetensors");
    view = file.tensor("w.Float").slice(0, 1, 3);
  }
  fs::remove(dir / "a.safetensors");
  expect_same(view, every_dtype().at("w.Float").slice(0, 1, 3));
}

TEST(Safetensors, WritesWhatTheTensorSaysNotWhatItsStorageHolds) {
  const TmpDir dir;
  const at::Tensor whole = at::arange(24, at::kFloat).view({4, 6});
  NamedTensors tensors;
  tensors.set("transposed", whole.t());
  tensors.set("columns", whole.slice(1, 2, 4));
  tensors.set("expanded", at::full({1}, 3).expand({5}));
  tensors.set("leaf", at::ones({3}).set_requires_grad(true));
  tensors.set("shared", whole);
  write_safetensors(dir / "a.safetensors", tensors);
  const SafetensorsFile file(dir / "a.safetensors");
  for (const auto& [name, tensor] : tensors) {
    SCOPED_TRACE(name);
    expect_same(file.tensor(name), tensor);
    EXPECT_FALSE(file.tensor(name).requires_grad());
  }
}

TEST(Safetensors, AFileOfNothing) {
  const TmpDir dir;
  write_safetensors(dir / "a.safetensors", {});
  EXPECT_EQ(read_file(dir / "a.safetensors"), safetensors_bytes("{}      ", ""));
  EXPECT_TRUE(SafetensorsFile(dir / "a.safetensors").names().empty());
}

// Made by the safetensors 0.8 package: element bytes 0, 1, 2 … modulo 251 (BOOL: modulo 2), every dtype, an odd name.
TEST(Safetensors, ReadsAndWritesAsHuggingFaceDoes) {
  const fs::path golden = source_dir() / "tests/data/safetensors/hf_all_dtypes.safetensors";
  const SafetensorsFile file(golden);
  NamedTensors reversed;  // the writer sorts
  const std::vector<std::string> names = file.names();
  ASSERT_EQ(names.size(), 13u);
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    const std::string bytes = bytes_of(file.tensor(*name));
    const int period = file.dtype(*name) == "BOOL" ? 2 : 251;
    for (size_t i = 0; i < bytes.size(); ++i) EXPECT_EQ(static_cast<unsigned char>(bytes[i]), i % period) << *name;
    reversed.set(*name, file.tensor(*name));
  }
  EXPECT_EQ(names[0], "e.i64");
  EXPECT_TRUE(file.contains("é\"\\\n"));
  const TmpDir dir;
  write_safetensors(dir / "again.safetensors", reversed, file.metadata());
  EXPECT_TRUE(read_file(dir / "again.safetensors") == read_file(golden));
}

TEST(Safetensors, CopiesDataThatLiesUnaligned) {
  const TmpDir dir;
  const std::string header = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  for (size_t pad = 0; pad < 4; ++pad) {
    const std::string padded = header + std::string(pad, ' ');
    const fs::path path = dir.write("a.safetensors", safetensors_bytes(padded, bytes_of(at::arange(2, at::kFloat))));
    const at::Tensor tensor = SafetensorsFile(path).tensor("w");
    expect_same(tensor, at::arange(2, at::kFloat));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 4, 0u);
  }
}

TEST(Safetensors, RefusesByNameWhatTorchCannotHold) {
  const TmpDir dir;
  const fs::path path = dir.write("a.safetensors", safetensors_bytes(
      R"({"q":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},"b":{"dtype":"BOOL","shape":[3],"data_offsets":[2,5]}})",
      std::string("\x12\x34\x00\x01\x02", 5)));
  const SafetensorsFile file(path);  // opens: only asking for them is an error
  EXPECT_EQ(QKR_MESSAGE_OF(file.tensor("q")),
            path.string() + ": tensor 'q' must be F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL, got F4");
  EXPECT_EQ(QKR_MESSAGE_OF(file.tensor("b")), path.string() + ": tensor 'b' must hold 0 and 1 alone, got 2 at byte 2");
  EXPECT_EQ(QKR_MESSAGE_OF(file.tensor("x")), path.string() + ": tensor 'x' must be in the file, got none of that name");

  NamedTensors complex;
  complex.set("c", at::zeros({1}, at::kComplexFloat));
  EXPECT_NE(QKR_MESSAGE_OF(write_safetensors(dir / "c.safetensors", complex)).find("got ComplexFloat"), std::string::npos);
  NamedTensors bad_names;
  bad_names.set("__metadata__", at::zeros({1}));
  EXPECT_NE(QKR_MESSAGE_OF(write_safetensors(dir / "c.safetensors", bad_names)).find("must have a name"), std::string::npos);
  NamedTensors undefined;
  undefined.set("u", at::Tensor());
  EXPECT_NE(QKR_MESSAGE_OF(write_safetensors(dir / "c.safetensors", undefined)).find("'u' must be defined"), std::string::npos);
  EXPECT_FALSE(fs::exists(dir / "c.safetensors"));
}

TEST(Safetensors, AFullDiskLeavesNoFileAndSaysWhatIsFree) {
  const TmpDir dir;
  NamedTensors tensors;
  tensors.set("w", at::zeros({100'000}));
  const fs::path old = dir.write("old.safetensors", "old");
  for (const char* name : {"new.safetensors", "old.safetensors"}) {
    std::string message;
    {
      const FileSizeLimit disk(100'000);
      message = QKR_MESSAGE_OF(write_safetensors(dir / name, tensors));
    }
    EXPECT_EQ(message.find((dir / name).string() + ": must be written, got File too large ("), 0u) << message;
    EXPECT_NE(message.find(" are free)"), std::string::npos);
  }
  EXPECT_EQ(read_file(old), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()), 1);
}

TEST(Safetensors, AFolderWithoutPermissionIsNamed) {
  const TmpDir dir;
  fs::permissions(dir.path(), fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read | fs::perms::others_exec);
  const WithoutRights nobody;
  if (!nobody.ok()) GTEST_SKIP() << "needs to give up root's rights, and may not";
  EXPECT_EQ(QKR_MESSAGE_OF(write_safetensors(dir / "a.safetensors", every_dtype())),
            (dir / "a.safetensors").string() + ": must be writable, got Permission denied");
}

TEST(Safetensors, ALeftoverOfAKilledWriterIsReplaced) {
  const TmpDir dir;
  dir.write("a.safetensors.partial", std::string(100'000, 'x'));
  write_safetensors(dir / "a.safetensors", every_dtype());
  EXPECT_FALSE(fs::exists(dir / "a.safetensors.partial"));
  EXPECT_EQ(SafetensorsFile(dir / "a.safetensors").names().size(), every_dtype().size());
}

// Every file of the fixtures was written by Hugging Face's own writer: reading and writing it again gives its bytes.
TEST(FixturesSafetensors, EveryFileIsRewrittenByteForByte) {
  const fs::path models = fixtures_dir() / "models";
  QKR_NEED_PATH(models);
  const TmpDir dir;
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(models)) {
    if (entry.path().extension() != ".safetensors") continue;
    SCOPED_TRACE(entry.path().string());
    const SafetensorsFile file(entry.path());
    NamedTensors tensors;
    for (const std::string& name : file.names()) tensors.set(name, file.tensor(name));
    write_safetensors(dir / "again", tensors, file.metadata());
    const std::string again = read_file(dir / "again"), golden = read_file(entry.path());
    // With several entries of metadata the other writer's order is that of a hash table: then compare the data alone.
    if (file.metadata().size() < 2) {
      EXPECT_TRUE(again == golden);
    } else {
      const size_t bytes = static_cast<size_t>(file.total_bytes());
      EXPECT_TRUE(again.substr(again.size() - bytes) == golden.substr(golden.size() - bytes));
    }
    ++files;
  }
  EXPECT_GT(files, 0);
}

}  // namespace
}  // namespace qkr::test
