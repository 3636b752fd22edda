# Compiles lua/**/*.lua, policies/*.lua and the argument parser (Debian's lua-argparse) into one C table
# (src/lua/embed.h): a broken or hostile search path cannot change what the program runs.
# Modules are stored compiled as well (reading them back takes a tenth of the time), for the very release of Lua that
# compiled them; with any other the text is used.
# An executable takes it by adding ${LATTICE_EMBEDDED} to its sources.
file(GLOB_RECURSE LATTICE_LUA CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/lua/*.lua ${CMAKE_SOURCE_DIR}/policies/*.lua)
list(FILTER LATTICE_LUA EXCLUDE REGEX "/_meta/")
find_program(LUA_INTERPRETER NAMES lua5.4 REQUIRED)
find_file(LATTICE_ARGPARSE argparse.lua PATHS /usr/share/lua/5.4 /usr/local/share/lua/5.4 NO_DEFAULT_PATH)
if(NOT LATTICE_ARGPARSE)
	message(FATAL_ERROR "argparse.lua for Lua 5.4 not found: install the package lua-argparse, "
		"or pass -DLATTICE_ARGPARSE=/path/to/argparse.lua")
endif()
execute_process(COMMAND ${LUA_INTERPRETER} -v OUTPUT_VARIABLE LATTICE_LUA_RELEASE ERROR_QUIET)
string(REGEX MATCH "^Lua 5\\.4\\.[0-9]+" LATTICE_LUA_RELEASE "${LATTICE_LUA_RELEASE}")
set(LATTICE_EMBEDDED_C ${CMAKE_BINARY_DIR}/embedded_lua.c)
add_custom_command(OUTPUT ${LATTICE_EMBEDDED_C}
	COMMAND ${LUA_INTERPRETER} ${CMAKE_SOURCE_DIR}/cmake/embed.lua ${LATTICE_EMBEDDED_C} ${CMAKE_SOURCE_DIR}
		${LATTICE_LUA_RELEASE} argparse=${LATTICE_ARGPARSE} ${LATTICE_LUA}
	DEPENDS ${LATTICE_LUA} ${LATTICE_ARGPARSE} ${CMAKE_SOURCE_DIR}/cmake/embed.lua
	COMMENT "Embedding Lua" VERBATIM)
add_library(lat_embedded OBJECT ${LATTICE_EMBEDDED_C})
target_link_libraries(lat_embedded PRIVATE lat_flags)
set(LATTICE_EMBEDDED $<TARGET_OBJECTS:lat_embedded>)
