# Parsing the standard library, fmt, Abseil, protobuf and gRPC takes more than the rest of most sources; two precompiled
# headers take a third off a build: tributary_pch for libraries and programs, tributary_test_pch for tests. No source
# depends on them: each includes what it uses, for the presets cuda and fuzz compile without them.
set(pch_headers
    <algorithm> <array> <atomic> <charconv> <chrono> <cmath> <cstdint> <cstring> <deque> <filesystem> <fstream>
    <functional> <limits> <map> <memory> <mutex> <numeric> <optional> <random> <set> <span> <sstream> <string>
    <string_view> <thread> <tuple> <utility> <variant> <vector>
    <absl/container/flat_hash_map.h> <absl/status/statusor.h> <fmt/format.h> <fmt/ranges.h> <spdlog/spdlog.h>
    <google/protobuf/message.h> <grpcpp/grpcpp.h>)

# tributary_pch_target(name headers... ): a library that exists for its precompiled header alone.
function(tributary_pch_target name)
  file(CONFIGURE OUTPUT ${name}.cc CONTENT "// Empty: ${name} exists for its precompiled header.\n")
  add_library(${name} OBJECT ${CMAKE_CURRENT_BINARY_DIR}/${name}.cc)
  target_link_libraries(${name} PRIVATE tributary_flags spdlog::spdlog fmt::fmt)
  target_precompile_headers(${name} PRIVATE ${ARGN})
endfunction()

# tributary_use_pch(target pch): the target is compiled with this precompiled header, but for sources with options of
# their own (an ISA's kernels).
function(tributary_use_pch target pch)
  if(TRIBUTARY_PCH)
    target_precompile_headers(${target} REUSE_FROM ${pch})
  endif()
endfunction()

if(TRIBUTARY_PCH)
  tributary_pch_target(tributary_pch ${pch_headers})
  if(BUILD_TESTING)
    tributary_pch_target(tributary_test_pch ${pch_headers} <gmock/gmock.h> <gtest/gtest.h>)
    target_link_libraries(tributary_test_pch PRIVATE GTest::gmock)
    target_compile_options(tributary_test_pch PRIVATE ${TRIBUTARY_TEST_OPTIONS})
  endif()
endif()
