# Warnings, hardening and sanitizers, for every target.
add_library(lat_flags INTERFACE)
target_compile_definitions(lat_flags INTERFACE _GNU_SOURCE
	LATTICE_VERSION="${PROJECT_VERSION}" LATTICE_EDITION="${LATTICE_EDITION}")
target_compile_options(lat_flags INTERFACE -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes
	-Wmissing-prototypes -Wno-unused-parameter -Wno-missing-field-initializers -fno-strict-aliasing)
if(LATTICE_WERROR)
	target_compile_options(lat_flags INTERFACE -Werror)
endif()
target_include_directories(lat_flags INTERFACE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/sandbox
	${CMAKE_SOURCE_DIR}/bpf)

if(LATTICE_SANITIZE)
	target_compile_options(lat_flags INTERFACE -fsanitize=${LATTICE_SANITIZE}
		-fno-sanitize-recover=all -fno-omit-frame-pointer)
	target_link_options(lat_flags INTERFACE -fsanitize=${LATTICE_SANITIZE})
else()
	# Hardening: position independent, read-only relocations, stack protector, checked libc calls.
	set(CMAKE_POSITION_INDEPENDENT_CODE ON)
	target_compile_options(lat_flags INTERFACE -fPIE -fstack-protector-strong)
	if(NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
		target_compile_options(lat_flags INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
	endif()
	target_link_options(lat_flags INTERFACE -pie -Wl,-z,relro,-z,now -Wl,-z,noexecstack)
endif()
