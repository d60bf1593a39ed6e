# Compile options shared by every target, and the options that must never appear.
add_library(tributary_flags INTERFACE)
target_compile_features(tributary_flags INTERFACE cxx_std_20)
target_include_directories(tributary_flags INTERFACE $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>)
target_link_libraries(tributary_flags INTERFACE Threads::Threads)
# For the C++ compiler alone; nvcc has its own. Who uses an installed library has options of his own.
function(tributary_cxx_options)
  foreach(option IN LISTS ARGN)
    target_compile_options(tributary_flags INTERFACE $<BUILD_INTERFACE:$<$<COMPILE_LANGUAGE:CXX>:${option}>>)
  endforeach()
endfunction()
tributary_cxx_options(-pthread) # as gRPC and UCX ask of whoever uses them: then one precompiled header fits all
tributary_cxx_options(-Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -fno-omit-frame-pointer)
target_compile_options(tributary_flags INTERFACE $<BUILD_INTERFACE:$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall>>)
if(TRIBUTARY_WERROR)
  tributary_cxx_options(-Werror)
  target_compile_options(tributary_flags INTERFACE $<BUILD_INTERFACE:$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>>)
endif()

# -ffast-math deletes the guard of the empty merge (docs/numerics.md).
if(CMAKE_CXX_FLAGS MATCHES "-ffast-math|-Ofast")
  message(FATAL_ERROR "-ffast-math is forbidden: it removes the check for an empty partial (lse_ln = -inf)")
endif()
tributary_cxx_options(-fno-fast-math)
# Nothing of where it was built stands in a binary, nor in an error message.
tributary_cxx_options(-ffile-prefix-map=${CMAKE_SOURCE_DIR}/=)
set(cuda_prefix_map -Xcompiler=-ffile-prefix-map=${CMAKE_SOURCE_DIR}/=)
target_compile_options(tributary_flags INTERFACE $<BUILD_INTERFACE:$<$<COMPILE_LANGUAGE:CUDA>:${cuda_prefix_map}>>)

# The presets compile for sanitizers with -O1 and line numbers alone: -O2 -g takes up to twice as long to compile; and
# for ASan with clang, since gcc takes half as long again. Templates of libraries that compile to a lot (fmt, CLI11 and
# others) are not instrumented.
if(TRIBUTARY_SANITIZE AND CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  tributary_cxx_options(-fsanitize-ignorelist=${CMAKE_SOURCE_DIR}/cmake/sanitizer_ignorelist.txt)
endif()
if(TRIBUTARY_SANITIZE STREQUAL "asan")
  tributary_cxx_options(-fsanitize=address,undefined -fno-sanitize-recover=all)
  target_link_options(tributary_flags INTERFACE -fsanitize=address,undefined)
elseif(TRIBUTARY_SANITIZE STREQUAL "tsan")
  tributary_cxx_options(-fsanitize=thread)
  target_link_options(tributary_flags INTERFACE -fsanitize=thread)
elseif(TRIBUTARY_SANITIZE STREQUAL "fuzz") # libFuzzer's coverage in every library; its main() only in the fuzzers
  tributary_cxx_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -g)
  target_link_options(tributary_flags INTERFACE -fsanitize=address,undefined)
elseif(NOT TRIBUTARY_SANITIZE STREQUAL "")
  message(FATAL_ERROR "TRIBUTARY_SANITIZE is '${TRIBUTARY_SANITIZE}'; it must be empty, asan, tsan or fuzz")
endif()

# No test is timed, and optimising a test's source costs its compiler more than it saves the test: -O1, behind the
# build type's own -O.
set(TRIBUTARY_TEST_OPTIONS "")
if(NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
  set(TRIBUTARY_TEST_OPTIONS $<$<COMPILE_LANGUAGE:CXX>:-O1>)
endif()
