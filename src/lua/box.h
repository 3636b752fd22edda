/* Userdata that own something outside Lua's memory.
 *
 * Box first, then acquire: lat_box_new pushes an empty box with its finalizer, and only then the C call is made whose
 * result goes into it, so that no Lua error can lose what was acquired:
 *
 *	struct lat_box *box = lat_box_new(L, &timer_type);   (may throw; nothing is held yet)
 *	r = lat_timer_open(..., &timer);
 *	if (r < 0)
 *		return lat_push_errno(L, r, "open a timer");
 *	lat_box_fill(box, timer);
 *	return 1;
 *
 * A box has __gc and __close and a method close(); closing twice is closing once; a closed box answers every method with
 * an error that says so. The closing function must not call Lua. */
#ifndef LAT_LUA_BOX_H
#define LAT_LUA_BOX_H
#include <lua.h>
#include <stdbool.h>

struct lat_box_type {
	const char *name;            /* "lattice.netns.Namespace": as LuaLS class, and in error messages */
	void (*close)(void *object);
};

struct lat_box {
	const struct lat_box_type *type;
	void *object; /* NULL: empty or closed */
};

/* Pushes an empty box. Its metatable was made when the module with a class of this type was opened (api.h). */
struct lat_box *lat_box_new(lua_State *L, const struct lat_box_type *type);
void lat_box_fill(lua_State *L, struct lat_box *box, void *object);
/* Takes the object out: the caller owns it, the box is closed. */
void *lat_box_take(lua_State *L, struct lat_box *box);
/* The object of the box at `index`; throws if it is not a box of this type or is closed. */
void *lat_box_check(lua_State *L, int index, const struct lat_box_type *type);
/* The box itself, closed or not; throws on another type. */
struct lat_box *lat_box_any(lua_State *L, int index, const struct lat_box_type *type);
/* Closes now; a second time does nothing. */
void lat_box_close(lua_State *L, struct lat_box *box);
/* Makes the metatable of a type that only its own file sees (no class in a struct lat_api). */
void lat_box_register(lua_State *L, const struct lat_box_type *type);
/* For api.c: adds close, __gc, __close, __name to the metatable on top of the stack. */
void lat_box_metatable(lua_State *L, const struct lat_box_type *type);

#endif
