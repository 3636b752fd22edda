# Compiles lua/**/*.lua and policies/*.lua into one C table (src/lua/embed.h): a broken or hostile search
# path cannot change what the program runs.
file(GLOB_RECURSE LATTICE_LUA CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/lua/*.lua ${CMAKE_SOURCE_DIR}/policies/*.lua)
find_program(LUA_INTERPRETER NAMES lua5.4 REQUIRED)
set(LATTICE_EMBEDDED ${CMAKE_BINARY_DIR}/embedded_lua.c)
add_custom_command(OUTPUT ${LATTICE_EMBEDDED}
	COMMAND ${LUA_INTERPRETER} ${CMAKE_SOURCE_DIR}/cmake/embed.lua ${LATTICE_EMBEDDED} ${CMAKE_SOURCE_DIR} ${LATTICE_LUA}
	DEPENDS ${LATTICE_LUA} ${CMAKE_SOURCE_DIR}/cmake/embed.lua
	COMMENT "Embedding Lua" VERBATIM)
