/* lattice.bpf: objects, programs, and programs on devices (kernel/bpf.h). */
#include "lua/api.h"
#include "kernel/bpf.h"
#include "lua/l_map.h"
#include <errno.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PACKET 65536
#define MAX_ATTACHED 64

static void close_object(void *object)
{
	lat_bpf_free(object);
}

static void close_program(void *object)
{
	close(*(int *)object);
	free(object);
}

/* `kept`: it stays when the box goes. */
struct hook {
	struct lat_bpf_attachment at;
	bool kept;
};

static void close_hook(void *object)
{
	struct hook *h = object;

	if (!h->kept)
		lat_bpf_detach(&h->at);
	else if (h->at.link >= 0)
		close(h->at.link);
	free(h);
}

static const struct lat_box_type object_type = { "lattice.bpf.Object", close_object };
static const struct lat_box_type program_type = { "lattice.bpf.Program", close_program };
static const struct lat_box_type hook_type = { "lattice.bpf.Hook", close_hook };

static int result(lua_State *L, int r, const char *tried)
{
	if (r < 0)
		return lat_push_errno(L, r, tried);
	lua_pushboolean(L, true);
	return 1;
}

/* ---- objects ---- */

/* nil, "TRIED: why", code; with what libbpf or the verifier said. */
static int push_said(lua_State *L, int r, const char *tried, const char *say)
{
	int n = lat_push_errno(L, r, tried);

	if (say[0]) {
		lua_pushvalue(L, -2);
		lua_pushfstring(L, "\n%s", say);
		lua_concat(L, 2);
		lua_replace(L, -3);
	}
	return n;
}

static int l_open(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1), *tried;
	char say[LAT_BPF_SAY];
	struct lat_box *box;
	struct lat_bpf *bpf;
	int r;

	if (!lua_isnoneornil(L, 2))
		luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	tried = lua_pushfstring(L, "open the BPF object %s", name);
	box = lat_box_new(L, &object_type);
	r = strchr(name, '/') ? lat_bpf_open_file(name, &bpf, say) : lat_bpf_open_embedded(name, &bpf, say);
	if (r < 0)
		return push_said(L, r, tried, say);
	lat_box_fill(L, box, bpf);
	if (lua_istable(L, 2)) {
		lua_pushnil(L);
		while (lua_next(L, 2)) {
			const char *map = luaL_checkstring(L, -2);
			lua_Integer n = luaL_checkinteger(L, -1);

			luaL_argcheck(L, n > 0 && n <= UINT32_MAX, 2, "entries of a map expected");
			r = lat_bpf_size(bpf, map, (uint32_t)n);
			if (r < 0)
				return lat_push_errno(L, r, lua_pushfstring(L, "size the map %s", map));
			lua_pop(L, 1);
		}
	}
	r = lat_bpf_load(bpf, say);
	if (r < 0) {
		lat_box_close(L, box);
		return push_said(L, r, lua_pushfstring(L, "load the BPF object %s", name), say);
	}
	lua_settop(L, 4);
	return 1;
}

static int push_names(lua_State *L, const struct lat_bpf *bpf, const char *(*name)(const struct lat_bpf *, size_t))
{
	const char *text;

	lua_newtable(L);
	for (size_t i = 0; (text = name(bpf, i)); i++) {
		lua_pushstring(L, text);
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	return 1;
}

static int l_programs(lua_State *L)
{
	return push_names(L, lat_box_check(L, 1, &object_type), lat_bpf_program_name);
}

static int l_maps(lua_State *L)
{
	return push_names(L, lat_box_check(L, 1, &object_type), lat_bpf_map_name);
}

static int l_embedded(lua_State *L)
{
	const char *name;

	lua_newtable(L);
	for (size_t i = 0; (name = lat_bpf_embedded_name(i)); i++) {
		lua_pushstring(L, name);
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	return 1;
}

/* fd: taken in any case. */
static int push_program(lua_State *L, struct lat_box *box, int fd)
{
	int *own = malloc(sizeof(*own));

	if (!own) {
		close(fd);
		return lat_push_errno(L, ENOMEM, "open a program");
	}
	*own = fd;
	lat_box_fill(L, box, own);
	return 1;
}

static int l_program(lua_State *L)
{
	struct lat_bpf *bpf = lat_box_check(L, 1, &object_type);
	const char *name = luaL_checkstring(L, 2), *tried = lua_pushfstring(L, "take the program %s", name);
	struct lat_box *box = lat_box_new(L, &program_type);
	int fd = lat_bpf_program(bpf, name);

	return fd < 0 ? lat_push_errno(L, fd, tried) : push_program(L, box, fd);
}

static int l_map(lua_State *L)
{
	struct lat_bpf *bpf = lat_box_check(L, 1, &object_type);
	const char *name = luaL_checkstring(L, 2);
	int fd;

	if (!lua_isnoneornil(L, 3))
		luaL_checktype(L, 3, LUA_TTABLE);
	fd = lat_bpf_map(bpf, name);
	if (fd < 0)
		return lat_push_errno(L, fd, lua_pushfstring(L, "take the map %s", name));
	return lat_lua_push_map(L, fd, lua_istable(L, 3) ? 3 : 0);
}

/* ---- programs ---- */

static int check_program(lua_State *L)
{
	return *(int *)lat_box_check(L, 1, &program_type);
}

static void push_info(lua_State *L, const struct lat_bpf_info *info)
{
	lua_createtable(L, 0, 3);
	lua_pushinteger(L, info->id);
	lua_setfield(L, -2, "id");
	lua_pushstring(L, info->name);
	lua_setfield(L, -2, "name");
	lua_pushinteger(L, info->type);
	lua_setfield(L, -2, "type");
}

static int l_info(lua_State *L)
{
	struct lat_bpf_info info;
	int r = lat_bpf_info(check_program(L), &info);

	if (r < 0)
		return lat_push_errno(L, r, "look at a program");
	push_info(L, &info);
	return 1;
}

static int l_test_run(lua_State *L)
{
	int fd = check_program(L), r;
	size_t size;
	const char *packet = luaL_checklstring(L, 2, &size);
	lua_Integer repeat = luaL_optinteger(L, 3, 1);
	struct lat_bpf_run run;
	char *out;

	luaL_argcheck(L, size <= MAX_PACKET, 2, "a packet expected");
	luaL_argcheck(L, repeat > 0 && repeat <= 1 << 24, 3, "a count expected");
	out = lua_newuserdatauv(L, MAX_PACKET + 256, 0);
	r = lat_bpf_test(fd, packet, size, (uint32_t)repeat, out, MAX_PACKET + 256, &run);
	if (r < 0)
		return lat_push_errno(L, r, "run a program");
	lua_pushinteger(L, (int32_t)run.verdict);
	lua_pushlstring(L, out, run.out_size);
	lua_pushinteger(L, run.ns);
	return 3;
}

static uint32_t check_device(lua_State *L, int index)
{
	const char *name = luaL_checkstring(L, index);
	uint32_t n = if_nametoindex(name);

	if (!n)
		luaL_argerror(L, index, lua_pushfstring(L, "there is no device '%s'", name));
	return n;
}

static bool check_in(lua_State *L, int index)
{
	static const char *const dirs[] = { "out", "in", NULL };

	return luaL_checkoption(L, index, NULL, dirs) == 1;
}

static const char *const hooks[] = { "auto", "tcx", "clsact", NULL };

static int l_attach(lua_State *L)
{
	int fd = check_program(L), how = luaL_checkoption(L, 4, "auto", hooks), r;
	uint32_t device = check_device(L, 2);
	bool in = check_in(L, 3);
	struct lat_box *box = lat_box_new(L, &hook_type);
	struct hook *h = calloc(1, sizeof(*h));

	if (!h)
		return lat_push_errno(L, ENOMEM, "attach a program");
	r = lat_bpf_attach(fd, device, in, (enum lat_bpf_hook)how, &h->at);
	if (r < 0) {
		free(h);
		return lat_push_errno(L, r, "attach a program");
	}
	lat_box_fill(L, box, h);
	return 1;
}

static int l_pin(lua_State *L)
{
	int fd = check_program(L);
	const char *path = luaL_checkstring(L, 2);

	return result(L, lat_bpf_pin(fd, path), lua_pushfstring(L, "pin a program at %s", path));
}

static int l_pinned(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1), *tried = lua_pushfstring(L, "open the program at %s", path);
	struct lat_box *box = lat_box_new(L, &program_type);
	int fd = lat_bpf_pinned(path);

	if (fd < 0)
		return lat_push_errno(L, fd, tried);
	return push_program(L, box, fd);
}

/* ---- hooks ---- */

static int l_hook_how(lua_State *L)
{
	lua_pushstring(L, hooks[((struct hook *)lat_box_check(L, 1, &hook_type))->at.how]);
	return 1;
}

static int l_hook_pin(lua_State *L)
{
	struct hook *h = lat_box_check(L, 1, &hook_type);
	const char *path = luaL_checkstring(L, 2);
	int r = h->at.link < 0 ? -EOPNOTSUPP : lat_bpf_pin(h->at.link, path);

	if (r == 0)
		h->kept = true;
	return result(L, r, lua_pushfstring(L, "pin a link at %s", path));
}

static int l_hook_keep(lua_State *L)
{
	struct hook *h = lat_box_check(L, 1, &hook_type);

	if (h->at.link >= 0)
		return lat_push_errno(L, EOPNOTSUPP, "keep a TCX link: pin it");
	h->kept = true;
	lua_pushboolean(L, true);
	return 1;
}

static int l_attached(lua_State *L)
{
	struct lat_bpf_info list[MAX_ATTACHED];
	uint32_t device = check_device(L, 1);
	int n = lat_bpf_attached(device, check_in(L, 2), list, MAX_ATTACHED);

	if (n < 0)
		return lat_push_errno(L, n, "ask what is attached");
	lua_createtable(L, n, 0);
	for (int i = 0; i < n; i++) {
		push_info(L, &list[i]);
		lua_rawseti(L, -2, i + 1);
	}
	return 1;
}

static const struct lat_api_function functions[] = {
	{ "open", l_open, "name: string, entries?: table<string, integer>",
		"lattice.bpf.Object?, string? error, (string|integer)? code",
		"Load a BPF object: a file (a path with a slash) or one of the binary's by name. entries: sizes of its maps. Pro." },
	{ "embedded", l_embedded, "", "string[]", "Names of the objects in the binary; none in the community edition." },
	{ "pinned", l_pinned, "path: string", "lattice.bpf.Program?, string? error, (string|integer)? code",
		"Open the program that is pinned at a path. Pro." },
	{ "attached", l_attached, "device: string, dir: \"in\"|\"out\"",
		"{ id: integer, name: string, type: integer }[]?, string? error, (string|integer)? code",
		"The programs on a device by TCX, in their order. Pro." },
	{ 0 },
};

static const struct lat_api_function object_methods[] = {
	{ "programs", l_programs, "", "string[]", "Names of its programs." },
	{ "maps", l_maps, "", "string[]", "Names of its maps." },
	{ "program", l_program, "name: string", "lattice.bpf.Program?, string? error, string? code", "One of its programs." },
	{ "map", l_map, "name: string, layouts?: { key?: string, value?: string }",
		"lattice.map.Map?, string? error, string? code", "One of its maps, with layouts as lattice.map has them." },
	{ 0 },
};

static const struct lat_api_function program_methods[] = {
	{ "info", l_info, "", "{ id: integer, name: string, type: integer }?, string? error, string? code", "What it is." },
	{ "test_run", l_test_run, "packet: string, repeat_count?: integer",
		"integer? verdict, string packet_or_error, (integer|string)? ns_or_code",
		"Run a packet through it, and say what it returned, the packet after it, and the ns of a run." },
	{ "attach", l_attach, "device: string, dir: \"in\"|\"out\", how?: \"auto\"|\"tcx\"|\"clsact\"",
		"lattice.bpf.Hook?, string? error, string? code",
		"Put it on a device, behind what is there; auto: TCX, and clsact where the kernel has none." },
	{ "pin", l_pin, "path: string", "boolean?, string? error, string? code",
		"Make it outlive its users at a path on a bpffs; os.remove(path) ends that." },
	{ 0 },
};

static const struct lat_api_function hook_methods[] = {
	{ "how", l_hook_how, "", "\"tcx\"|\"clsact\"", "How it is attached." },
	{ "pin", l_hook_pin, "path: string", "boolean?, string? error, string? code",
		"Make the attachment outlive the process at a path on a bpffs (TCX)." },
	{ "keep", l_hook_keep, "", "boolean?, string? error, string? code",
		"Leave it attached when this object is closed (clsact)." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.bpf.Object", "A loaded object; programs and maps that were taken from it outlive it.", &object_type,
		object_methods, NULL },
	{ "lattice.bpf.Program", "A loaded program.", &program_type, program_methods, NULL },
	{ "lattice.bpf.Hook", "A program on a device; close() takes it off.", &hook_type, hook_methods, NULL },
	{ 0 },
};

/* Its objects give maps. */
static int open_module(lua_State *L)
{
	lua_getglobal(L, "require");
	lua_pushliteral(L, "lattice.map");
	lua_call(L, 1, 0);
	return 0;
}

const struct lat_api lat_api_bpf = {
	.name = "lattice.bpf",
	.doc = "BPF objects, programs, and programs on devices (pro).",
	.functions = functions,
	.classes = classes,
	.open = open_module,
};
