# Pro edition: compiles bpf/*.bpf.c with clang and puts the objects into one C file (src/kernel/pro/objects.h), so that
# the binary needs no file beside it. A new program needs no line here.
# -mcpu=v2: from v3 on the compiler keeps 32-bit values on the stack, and 6.1 without CAP_PERFMON refuses the second such
# store to a place.
find_program(LATTICE_BPF_CLANG NAMES clang clang-14 REQUIRED)
find_program(LATTICE_BPF_STRIP NAMES llvm-strip llvm-strip-14 REQUIRED)
file(GLOB LATTICE_BPF_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/bpf/*.bpf.c)
file(GLOB LATTICE_BPF_HEADERS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/bpf/*.h)
set(LATTICE_BPF_C ${CMAKE_BINARY_DIR}/bpf_objects.c)
set(LATTICE_BPF_OBJECTS "")
set(lat_bpf_asm "")
set(lat_bpf_rows "")
foreach(source ${LATTICE_BPF_SOURCES})
	get_filename_component(name ${source} NAME_WE)
	set(object ${CMAKE_BINARY_DIR}/${name}.bpf.o)
	add_custom_command(OUTPUT ${object}
		COMMAND ${LATTICE_BPF_CLANG} -O2 -g -Wall -Wextra -Wno-unused-parameter -Werror -target bpf -mcpu=v2
			-I${CMAKE_SOURCE_DIR}/bpf
			-I${CMAKE_SYSROOT}/usr/include/${CMAKE_LIBRARY_ARCHITECTURE} -I${CMAKE_SYSROOT}/usr/include
			-c ${source} -o ${object}
		COMMAND ${LATTICE_BPF_STRIP} -g ${object}
		DEPENDS ${source} ${LATTICE_BPF_HEADERS} COMMENT "Compiling ${name}.bpf.c" VERBATIM)
	list(APPEND LATTICE_BPF_OBJECTS ${object})
	string(APPEND lat_bpf_asm "__asm__(\".section .rodata\\n.balign 16\\n.global lat_bpf_${name}\\nlat_bpf_${name}:\\n\"
	\".incbin \\\"${object}\\\"\\n.global lat_bpf_${name}_end\\nlat_bpf_${name}_end:\\n.previous\\n\");
extern const unsigned char lat_bpf_${name}[], lat_bpf_${name}_end[];\n")
	string(APPEND lat_bpf_rows "\t{ \"${name}\", lat_bpf_${name}, lat_bpf_${name}_end },\n")
endforeach()
file(CONFIGURE OUTPUT ${LATTICE_BPF_C} CONTENT "#include \"kernel/pro/objects.h\"\n${lat_bpf_asm}
const struct lat_bpf_object lat_bpf_objects[] = {\n${lat_bpf_rows}\t{ 0 },\n};\n" @ONLY)
set_source_files_properties(${LATTICE_BPF_C} PROPERTIES OBJECT_DEPENDS "${LATTICE_BPF_OBJECTS}")
add_library(lat_bpf OBJECT ${LATTICE_BPF_C})
target_link_libraries(lat_bpf PRIVATE lat_flags)
