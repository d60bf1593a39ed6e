# Compile options shared by every target, and the options that must never appear.
add_library(tributary_flags INTERFACE)
target_compile_features(tributary_flags INTERFACE cxx_std_20)
target_include_directories(tributary_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(tributary_flags INTERFACE -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers
                                                 -fno-omit-frame-pointer)
if(TRIBUTARY_WERROR)
  target_compile_options(tributary_flags INTERFACE -Werror)
endif()

# -ffast-math deletes the guard of the empty merge (docs/numerics.md).
if(CMAKE_CXX_FLAGS MATCHES "-ffast-math|-Ofast")
  message(FATAL_ERROR "-ffast-math is forbidden: it removes the check for an empty partial (lse_ln = -inf)")
endif()
target_compile_options(tributary_flags INTERFACE -fno-fast-math)

if(TRIBUTARY_SANITIZE STREQUAL "asan")
  target_compile_options(tributary_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all -g)
  target_link_options(tributary_flags INTERFACE -fsanitize=address,undefined)
elseif(TRIBUTARY_SANITIZE STREQUAL "tsan")
  target_compile_options(tributary_flags INTERFACE -fsanitize=thread -g)
  target_link_options(tributary_flags INTERFACE -fsanitize=thread)
elseif(NOT TRIBUTARY_SANITIZE STREQUAL "")
  message(FATAL_ERROR "TRIBUTARY_SANITIZE is '${TRIBUTARY_SANITIZE}'; it must be empty, asan or tsan")
endif()
