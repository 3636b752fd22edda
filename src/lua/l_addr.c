/* lattice.addr: IP addresses and prefixes as text, by base/addr.h. */
#include "lua/api.h"
#include "base/addr.h"
#include <errno.h>

static void check_addr(lua_State *L, int index, struct lat_addr *a)
{
	const char *text = luaL_checkstring(L, index);

	if (lat_addr_parse(text, a) < 0)
		luaL_argerror(L, index, lua_pushfstring(L, "'%s' is not an IP address", text));
}

static void push_addr(lua_State *L, const struct lat_addr *a)
{
	char text[LAT_ADDR_TEXT];

	lua_pushstring(L, lat_addr_format(a, text, sizeof(text)));
}

static const char *prefix_error(int r)
{
	if (r == -ERANGE)
		return "the prefix length is beyond the address family";
	return r == -EDOM ? "bits are set beyond the prefix length" : "not an address or prefix";
}

static int push_prefix_error(lua_State *L, const char *text, int r)
{
	lua_pushnil(L);
	lua_pushfstring(L, "'%s': %s", text, prefix_error(r));
	lua_pushstring(L, r == -ERANGE ? "ERANGE" : r == -EDOM ? "EDOM" : "EINVAL");
	return 3;
}

static int l_parse(lua_State *L)
{
	const char *text = luaL_checkstring(L, 1);
	struct lat_addr a;

	if (lat_addr_parse(text, &a) < 0)
		return push_prefix_error(L, text, -EINVAL);
	push_addr(L, &a);
	lua_pushinteger(L, lat_addr_is4(&a) ? 4 : 6);
	return 2;
}

static int l_prefix(lua_State *L)
{
	const char *text = luaL_checkstring(L, 1);
	struct lat_prefix p;
	int r = lat_prefix_parse(text, &p);

	if (r < 0)
		return push_prefix_error(L, text, r);
	lua_createtable(L, 0, 3);
	lua_pushinteger(L, p.family);
	lua_setfield(L, -2, "family");
	push_addr(L, &p.addr);
	lua_setfield(L, -2, "addr");
	lua_pushinteger(L, p.len);
	lua_setfield(L, -2, "len");
	return 1;
}

static int l_contains(lua_State *L)
{
	const char *text = luaL_checkstring(L, 1);
	struct lat_prefix p;
	struct lat_addr a;
	int r = lat_prefix_parse(text, &p);

	if (r < 0)
		luaL_argerror(L, 1, lua_pushfstring(L, "'%s': %s", text, prefix_error(r)));
	check_addr(L, 2, &a);
	lua_pushboolean(L, lat_prefix_contains(&p, &a));
	return 1;
}

static int l_format(lua_State *L)
{
	size_t len;
	const char *bytes = luaL_checklstring(L, 1, &len);
	struct lat_addr a;

	luaL_argcheck(L, len == 4 || len == 16, 1, "4 or 16 bytes expected");
	if (len == 4)
		lat_addr_from4(&a, bytes);
	else
		lat_addr_from6(&a, bytes);
	push_addr(L, &a);
	return 1;
}

static int l_bytes(lua_State *L)
{
	struct lat_addr a;

	check_addr(L, 1, &a);
	lua_pushlstring(L, (const char *)a.b, sizeof(a.b));
	return 1;
}

static int l_is_private(lua_State *L)
{
	struct lat_addr a;

	check_addr(L, 1, &a);
	lua_pushboolean(L, lat_addr_is_private(&a));
	return 1;
}

static int l_is_loopback(lua_State *L)
{
	struct lat_addr a;

	check_addr(L, 1, &a);
	lua_pushboolean(L, lat_addr_is_loopback(&a));
	return 1;
}

static const struct lat_api_function functions[] = {
	{ "parse", l_parse, "text: string", "string? canonical, integer|string family_or_error, string? code",
		"The usual text of an address and its family (4 or 6); nil, error, code if it is none." },
	{ "prefix", l_prefix, "text: string", "lattice.addr.Prefix?, string? error, string? code",
		"Read \"10.0.0.0/8\" or an address alone; host bits set are an error (EDOM)." },
	{ "contains", l_contains, "prefix: string, addr: string", "boolean",
		"Whether the address is in the prefix; IPv4 and its v4-mapped form are the same." },
	{ "format", l_format, "bytes: string", "string", "Text of 4 or 16 bytes in network order." },
	{ "bytes", l_bytes, "addr: string", "string", "The 16 bytes of an address; IPv4 is v4-mapped." },
	{ "is_private", l_is_private, "addr: string", "boolean",
		"Whether a name must not lead there unless its rule says private = true." },
	{ "is_loopback", l_is_loopback, "addr: string", "boolean", "127.0.0.0/8 or ::1." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.addr.Prefix", "A prefix of one family.", NULL, NULL,
		"family: integer, addr: string, len: integer" },
	{ 0 },
};

const struct lat_api lat_api_addr = {
	.name = "lattice.addr",
	.doc = "IP addresses and prefixes.",
	.functions = functions,
	.classes = classes,
	.pure = true,
};
