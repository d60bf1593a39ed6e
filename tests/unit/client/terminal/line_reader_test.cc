#include "client/terminal/line_reader.h"

#include <unistd.h>

#include <string>

#include "gtest/gtest.h"

namespace tributary {
namespace {

class LineReaderTest : public ::testing::Test {
 protected:
  LineReaderTest() { EXPECT_EQ(pipe(ends_), 0); }
  ~LineReaderTest() override {
    close(ends_[0]);
    if (ends_[1] >= 0) close(ends_[1]);
  }
  void Write(const std::string& text) { ASSERT_EQ(write(ends_[1], text.data(), text.size()), ssize_t(text.size())); }
  void End() {
    close(ends_[1]);
    ends_[1] = -1;
  }
  int ends_[2];
};

TEST_F(LineReaderTest, LinesComeOneByOneAndTheLastNeedsNoEnd) {
  LineReader reader(ends_[0], [] { return false; });
  Write("one\r\n\ntw");
  EXPECT_EQ(**reader.Read(), "one");
  EXPECT_EQ(**reader.Read(), "");
  Write("o\nlast");
  End();
  EXPECT_EQ(**reader.Read(), "two");
  EXPECT_EQ(**reader.Read(), "last");
  EXPECT_FALSE(reader.Read()->has_value());
  EXPECT_FALSE(reader.Read()->has_value());
}

TEST_F(LineReaderTest, ItGivesUpWhenItIsToldTo) {
  int asked = 0;
  LineReader reader(ends_[0], [&asked] { return ++asked > 2; });
  Write("half a line");
  EXPECT_FALSE(reader.Read()->has_value());
  EXPECT_GT(asked, 2);
}

}  // namespace
}  // namespace tributary
