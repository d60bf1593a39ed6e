# Run at each build (cmake -P): writes revision.h with the commit that is checked out, and leaves it alone if that is
# what it says already. Expects SOURCE_DIR and OUTPUT.
set(revision "unknown")
find_package(Git QUIET)
if(GIT_FOUND)
  execute_process(
    COMMAND ${GIT_EXECUTABLE} -C ${SOURCE_DIR} rev-parse --short=10 HEAD
    OUTPUT_VARIABLE git_revision
    RESULT_VARIABLE git_result
    ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(git_result EQUAL 0)
    set(revision ${git_revision})
  endif()
endif()
set(text "#define TRIBUTARY_REVISION \"${revision}\"\n")
set(old "")
if(EXISTS ${OUTPUT})
  file(READ ${OUTPUT} old)
endif()
if(NOT old STREQUAL text)
  file(WRITE ${OUTPUT} "${text}")
endif()
