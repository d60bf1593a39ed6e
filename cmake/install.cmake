# `cmake --install`, in three components. `runtime`: the programs, what they run, the probe model, the files of deploy/.
# `systemd`: units and their flags. `development`: the libraries that another C++ program may use, with their headers.
# Such a program says find_package(Tributary) and links tributary::client_api, tributary::kv_store, ...
# (cmake/TributaryConfig.cmake.in). The Debian package (cmake/cpack.cmake) has the first two, the wheel (wheel/) the
# first.
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
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
install(EXPORT TributaryTargets NAMESPACE tributary:: DESTINATION ${cmake_dir} COMPONENT development)
foreach(folder IN LISTS TRIBUTARY_INSTALLED_HEADERS)
  install(
    DIRECTORY ${folder}/
    DESTINATION ${header_dir}/${folder}
    COMPONENT development
    FILES_MATCHING
    PATTERN "*.h"
    PATTERN "ucx" EXCLUDE)
endforeach()
install(
  DIRECTORY ${CMAKE_BINARY_DIR}/proto/tributary
  DESTINATION ${header_dir}
  COMPONENT development
  FILES_MATCHING
  PATTERN "*.pb.h")
install(DIRECTORY proto/tributary DESTINATION ${CMAKE_INSTALL_DATADIR}/tributary/proto COMPONENT runtime FILES_MATCHING
        PATTERN "*.proto")
install(
  DIRECTORY deploy
  DESTINATION ${CMAKE_INSTALL_DATADIR}/tributary
  COMPONENT runtime
  USE_SOURCE_PERMISSIONS
  PATTERN "systemd" EXCLUDE
  PATTERN "debian" EXCLUDE)
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT runtime)

foreach(program tributary tributary-coordinator tributary-gpu-worker tributary-cpu-attention)
  if(TARGET ${program})
    install(TARGETS ${program} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)
  endif()
endforeach()
install(
  PROGRAMS tools/tokenizer.py
  DESTINATION ${CMAKE_INSTALL_BINDIR}
  COMPONENT runtime
  RENAME tributary-tokenizer.py)
# What that imports (it needs nothing else of the Python package), and what client/CMakeLists.txt makes of the flags.
install(
  DIRECTORY python/src/tributary/text
  DESTINATION ${CMAKE_INSTALL_DATADIR}/tributary/python/tributary
  COMPONENT runtime
  FILES_MATCHING
  PATTERN "*.py")
if(TARGET tributary)
  install(FILES ${CMAKE_BINARY_DIR}/share/bash-completion/completions/tributary
          DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions COMPONENT runtime OPTIONAL)
  install(FILES ${CMAKE_BINARY_DIR}/share/man/man1/tributary.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1
          COMPONENT runtime OPTIONAL)
endif()

# `tributary demo` (client/cli/demo_command.h), and the model that it asks.
install(FILES tools/demo.py tools/needles.py DESTINATION libexec/tributary COMPONENT runtime)
install(DIRECTORY models/probe DESTINATION ${CMAKE_INSTALL_DATADIR}/tributary/models COMPONENT runtime)

file(GLOB units deploy/systemd/*.service)
install(FILES ${units} DESTINATION lib/systemd/system COMPONENT systemd)
# The units' flags are configuration: /etc, if /usr is what is installed into.
install(
  CODE "
  set(flags_dir \${CMAKE_INSTALL_PREFIX}/etc/default)
  if(CMAKE_INSTALL_PREFIX STREQUAL \"/usr\")
    set(flags_dir /etc/default)
  endif()
  file(GLOB flags ${CMAKE_CURRENT_SOURCE_DIR}/deploy/systemd/default/*)
  file(INSTALL DESTINATION \${flags_dir} TYPE FILE FILES \${flags})"
  COMPONENT systemd)

configure_package_config_file(cmake/TributaryConfig.cmake.in ${CMAKE_BINARY_DIR}/TributaryConfig.cmake
                              INSTALL_DESTINATION ${cmake_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/TributaryConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/TributaryConfig.cmake ${CMAKE_BINARY_DIR}/TributaryConfigVersion.cmake
        DESTINATION ${cmake_dir} COMPONENT development)

# In a wheel, the gRPC stubs of the Python package; wheel/pyproject.toml takes its other files.
if(SKBUILD)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  install(
    CODE "
    execute_process(COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/python/stubs.py ${SKBUILD_PLATLIB_DIR}
                    COMMAND_ERROR_IS_FATAL ANY)"
    COMPONENT python)
endif()
