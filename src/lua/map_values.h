/* Keys and values of maps between bytes and Lua, by their layouts (l_map.c says what those are); nobody else includes this. */
#ifndef LAT_LUA_MAP_VALUES_H
#define LAT_LUA_MAP_VALUES_H
#include "kernel/map.h"
#include "lua/box.h"

extern const struct lat_box_type lat_map_box;

/* Leaves the layout "key" or "value" of the box at index `box`: a string or nil. */
void lat_map_push_layout(lua_State *L, int box, const char *which);
/* Leaves string.NAME. */
void lat_map_push_function(lua_State *L, const char *name);
/* Writes the value at `index` as `size` bytes; throws when it does not fit the layout at index `layout`. */
void lat_map_encode(lua_State *L, int index, int layout, size_t size, void *out, const char *what);
/* Pushes the value of these bytes. */
void lat_map_decode(lua_State *L, int layout, const void *bytes, size_t size);
/* As value_bytes: a per-CPU map's is a list with one for each CPU, or one for all; a map of maps takes a Map. */
void lat_map_encode_value(lua_State *L, const struct lat_map *map, int index, int layout, char *out);
/* Pushes the value, or nil, error, code; how many. */
int lat_map_push_value(lua_State *L, const struct lat_map *map, int layout, const char *bytes);

#endif
