# `cpack --config build/CPackConfig.cmake`: one Debian package, `tributary`, of the components runtime and systemd.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME tributary)
set(CPACK_PACKAGE_VENDOR "The Tributary authors")
set(CPACK_PACKAGE_CONTACT "The Tributary authors <authors@tributary.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "LLM decoding over contexts whose KV cache does not fit the GPU")
set(CPACK_PACKAGE_DESCRIPTION
    "The GPU worker keeps the recent window; CPU attention services keep the rest of the KV in host memory and attend
over it where it lies. Only queries and partial outputs cross the network, and the worker merges them exactly.")
set(CPACK_STRIP_FILES ON)
set(CPACK_VERBATIM_VARIABLES ON)

set(CPACK_COMPONENTS_ALL runtime systemd)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
set(CPACK_DEB_COMPONENT_INSTALL ON)
# The units' flags go to /etc (cmake/install.cmake), which is outside the prefix.
set(CPACK_SET_DESTDIR ON)
set(CPACK_INSTALL_PREFIX /usr)

set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT) # tributary_0.1.0_amd64.deb
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_COMPRESSION_TYPE zstd) # Debian 12 and Ubuntu 24.04 read it; xz takes four times as long for little
# dpkg-shlibdeps finds the packages of the shared libraries, but for OpenBLAS, which is loaded when it is needed. Python
# runs the demo and tokenizers.
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "libopenblas0-pthread | libopenblas0, python3 (>= 3.10)")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(debian_dir ${CMAKE_SOURCE_DIR}/deploy/debian)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${debian_dir}/postinst ${debian_dir}/prerm ${debian_dir}/postrm
                                       ${debian_dir}/conffiles)
include(CPack)
