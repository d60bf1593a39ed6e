// Programmer errors: TRIBUTARY_CHECK* are always on, print both values and die. Operating errors are absl::Status.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

namespace tributary::internal {

[[noreturn]] inline void CheckFailed(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, what.c_str());
  std::abort();
}

template <typename A, typename B>
std::string CheckMessage(const char* expression, const A& a, const B& b) {
  std::ostringstream text;
  text << expression << " (" << a << " vs " << b << ")";
  return text.str();
}

}  // namespace tributary::internal

#define TRIBUTARY_CHECK(condition) \
  ((condition) ? (void)0 : ::tributary::internal::CheckFailed(__FILE__, __LINE__, #condition))

#define TRIBUTARY_CHECK_OP_(a, op, b)                                  \
  (((a)op(b)) ? (void)0                                                \
              : ::tributary::internal::CheckFailed(__FILE__, __LINE__, \
                                                   ::tributary::internal::CheckMessage(#a " " #op " " #b, (a), (b))))

#define TRIBUTARY_CHECK_EQ(a, b) TRIBUTARY_CHECK_OP_(a, ==, b)
#define TRIBUTARY_CHECK_NE(a, b) TRIBUTARY_CHECK_OP_(a, !=, b)
#define TRIBUTARY_CHECK_LT(a, b) TRIBUTARY_CHECK_OP_(a, <, b)
#define TRIBUTARY_CHECK_LE(a, b) TRIBUTARY_CHECK_OP_(a, <=, b)
#define TRIBUTARY_CHECK_GT(a, b) TRIBUTARY_CHECK_OP_(a, >, b)
#define TRIBUTARY_CHECK_GE(a, b) TRIBUTARY_CHECK_OP_(a, >=, b)
