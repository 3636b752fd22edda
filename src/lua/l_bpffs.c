/* lattice.bpffs: the directory for pins, on a bpffs that outlives us (kernel/bpffs.h). */
#include "kernel/bpffs.h"
#include "lua/api.h"

static void close_bpffs(void *object)
{
	lat_bpffs_close(object, false);
}

static const struct lat_box_type bpffs_type = { "lattice.bpffs.Bpffs", close_bpffs };

static int l_open(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	struct lat_box *box = lat_box_new(L, &bpffs_type);
	struct lat_bpffs *fs;
	int r = lat_bpffs_open(path, &fs);

	if (r < 0)
		return lat_push_errno(L, r, path);
	lat_box_fill(L, box, fs);
	return 1;
}

static int l_prepare(lua_State *L)
{
	const char *use;
	int r = lat_bpffs_prepare(lat_box_check(L, 1, &bpffs_type), &use);

	if (r < 0)
		return lat_push_errno(L, r, "mount a bpffs for the pins");
	lua_pushstring(L, use);
	return 1;
}

static int l_find(lua_State *L)
{
	const char *use;
	int r = lat_bpffs_find(lat_box_check(L, 1, &bpffs_type), &use);

	if (r < 0)
		return lat_push_errno(L, r, "look for pins");
	lua_pushstring(L, use);
	return 1;
}

static int l_private(lua_State *L)
{
	lua_pushboolean(L, lat_bpffs_is_private(lat_box_check(L, 1, &bpffs_type)));
	return 1;
}

static int l_remove(lua_State *L)
{
	struct lat_box *box = lat_box_any(L, 1, &bpffs_type);

	lat_bpffs_close(lat_box_take(L, box), true);
	return 0;
}

static const struct lat_api_function functions[] = {
	{ "open", l_open, "path: string", "lattice.bpffs.Bpffs?, string? error, string? code",
		"A directory for pins. Nothing is made yet; what mounting needs is kept in a child of its own." },
	{ 0 },
};

static const struct lat_api_function methods[] = {
	{ "prepare", l_prepare, "", "string? path, string? error, string? code",
		"Make the directory, on a bpffs; the path by which this process gets at it." },
	{ "find", l_find, "", "string? path, string? error, string? code",
		"The same, but nothing is made: \"ENOENT\" where there is none." },
	{ "private", l_private, "", "boolean", "Whether it ends with this process's mount namespace." },
	{ "remove", l_remove, "", "", "End it, and remove what was made if nothing is in it." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.bpffs.Bpffs", "A directory for pins; close() leaves it as it is.", &bpffs_type, methods, NULL },
	{ 0 },
};

const struct lat_api lat_api_bpffs = {
	.name = "lattice.bpffs",
	.doc = "Where eBPF objects are pinned.",
	.functions = functions,
	.classes = classes,
};
