# One function per kind of target. Sources are listed, never globbed: what is not listed is not built,
# and a reader sees a folder's dependencies in its CMakeLists.txt.

# tributary_library(NAME foo HDRS foo.h SRCS foo.cc DEPS bar): the static library tributary_foo, alias tributary::foo.
function(tributary_library)
  cmake_parse_arguments(ARG "" "NAME" "HDRS;SRCS;DEPS;COPTS" ${ARGN})
  if(ARG_SRCS)
    add_library(tributary_${ARG_NAME} STATIC ${ARG_SRCS} ${ARG_HDRS})
    target_link_libraries(tributary_${ARG_NAME} PUBLIC tributary_flags ${ARG_DEPS})
    target_compile_options(tributary_${ARG_NAME} PRIVATE ${ARG_COPTS})
  else()
    add_library(tributary_${ARG_NAME} INTERFACE)
    target_link_libraries(tributary_${ARG_NAME} INTERFACE tributary_flags ${ARG_DEPS})
  endif()
  add_library(tributary::${ARG_NAME} ALIAS tributary_${ARG_NAME})
endfunction()

# tributary_binary(NAME tributary-foo SRCS foo_main.cc DEPS ...): an executable in build/bin.
function(tributary_binary)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_link_libraries(${ARG_NAME} PRIVATE tributary_flags ${ARG_DEPS})
endfunction()

# tributary_test(NAME foo_test SRCS a_test.cc DEPS ... [LABELS unit] [TIMEOUT seconds]): one binary, one ctest entry.
function(tributary_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  if(NOT BUILD_TESTING)
    return()
  endif()
  add_executable(${ARG_NAME} ${ARG_SRCS})
  set_target_properties(${ARG_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_link_libraries(${ARG_NAME} PRIVATE tributary_flags ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set_tests_properties(${ARG_NAME} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()

# tributary_bench(NAME foo_bench SRCS ... DEPS ...): a benchmark binary in build/bin; never run by ctest.
function(tributary_bench)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  if(TRIBUTARY_BUILD_BENCHMARKS)
    tributary_binary(NAME ${ARG_NAME} SRCS ${ARG_SRCS} DEPS ${ARG_DEPS})
  endif()
endfunction()
