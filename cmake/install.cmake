# `cmake --install`: the programs; the libraries that another C++ program may use, with their headers; the files of
# deploy/. Such a program says find_package(Tributary) and links tributary::client_api, tributary::kv_store, ...
# (cmake/TributaryConfig.cmake.in).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(TRIBUTARY_INSTALLED_LIBRARIES
    flags base proto telemetry attention attention_kv policy wire cluster transport proto_convert rpc kv_store model
    client_api)
set(TRIBUTARY_INSTALLED_HEADERS base telemetry attention policy wire cluster transport proto rpc kv_store model
                                client/api)

set(cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Tributary)
set(header_dir ${CMAKE_INSTALL_INCLUDEDIR}/tributary)
set(targets)
foreach(library IN LISTS TRIBUTARY_INSTALLED_LIBRARIES)
  list(APPEND targets tributary_${library})
  set_target_properties(tributary_${library} PROPERTIES EXPORT_NAME ${library})
endforeach()
target_include_directories(tributary_flags INTERFACE $<INSTALL_INTERFACE:${header_dir}>)
target_include_directories(tributary_proto SYSTEM INTERFACE $<INSTALL_INTERFACE:${header_dir}>)

install(
  TARGETS ${targets}
  EXPORT TributaryTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT TributaryTargets NAMESPACE tributary:: DESTINATION ${cmake_dir})
foreach(folder IN LISTS TRIBUTARY_INSTALLED_HEADERS)
  install(
    DIRECTORY ${folder}/
    DESTINATION ${header_dir}/${folder}
    FILES_MATCHING
    PATTERN "*.h"
    PATTERN "ucx" EXCLUDE)
endforeach()
install(
  DIRECTORY ${CMAKE_BINARY_DIR}/proto/tributary
  DESTINATION ${header_dir}
  FILES_MATCHING
  PATTERN "*.pb.h")
install(DIRECTORY proto/tributary DESTINATION ${CMAKE_INSTALL_DATADIR}/tributary/proto FILES_MATCHING PATTERN "*.proto")
install(DIRECTORY deploy DESTINATION ${CMAKE_INSTALL_DATADIR}/tributary)
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

foreach(program tributary tributary-coordinator tributary-gpu-worker tributary-cpu-attention)
  if(TARGET ${program})
    install(TARGETS ${program} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endforeach()

install(
  PROGRAMS tools/tokenizer.py
  DESTINATION ${CMAKE_INSTALL_BINDIR}
  RENAME tributary-tokenizer.py)
# What that imports (it needs nothing else of the Python package), and what client/CMakeLists.txt makes of the flags.
install(
  DIRECTORY python/src/tributary/text
  DESTINATION ${CMAKE_INSTALL_DATADIR}/tributary/python/tributary
  FILES_MATCHING
  PATTERN "*.py")
if(TARGET tributary)
  install(FILES ${CMAKE_BINARY_DIR}/share/bash-completion/completions/tributary
          DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
  install(FILES ${CMAKE_BINARY_DIR}/share/man/man1/tributary.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
endif()

configure_package_config_file(cmake/TributaryConfig.cmake.in ${CMAKE_BINARY_DIR}/TributaryConfig.cmake
                              INSTALL_DESTINATION ${cmake_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/TributaryConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/TributaryConfig.cmake ${CMAKE_BINARY_DIR}/TributaryConfigVersion.cmake
        DESTINATION ${cmake_dir})
