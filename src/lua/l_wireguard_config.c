/* lattice.wireguard: a device's configuration from a Lua table, and its state as one. */
#include "lua/l_wireguard.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- set ---- */

static int load_key(struct lat_wg_job *job, const char *path, uint8_t key[LAT_WG_KEY])
{
	int r = lat_wg_key_load(path, key);

	if (r < 0)
		lat_lua_wireguard_key_text(r, path, job->text, sizeof(job->text));
	return r;
}

static int run_set(struct lat_wg_job *job)
{
	int r = 0;

	if (job->private_file) {
		job->wg.set_private = true;
		r = load_key(job, job->private_file, job->wg.private_key);
	}
	for (size_t i = 0; r == 0 && i < job->preshared_count; i++) {
		if (!job->preshared[i])
			continue;
		job->wg.peers[i].set_preshared = true;
		r = load_key(job, job->preshared[i], job->wg.peers[i].preshared);
	}
	if (r < 0)
		return r;
	snprintf(job->text, sizeof(job->text), "configure %s", job->device->device.name);
	r = job->replace ? lat_wg_apply(&job->device->device, &job->wg) : lat_wg_set(&job->device->device, &job->wg);
	lat_wg_wipe(&job->wg); /* the keys: at once */
	return r;
}

static int give_true(lua_State *L, struct lat_wg_job *job)
{
	lua_pushboolean(L, true);
	return 1;
}

static lua_Integer number_field(lua_State *L, int table, const char *key, lua_Integer otherwise)
{
	lua_Integer n = otherwise;

	if (lua_getfield(L, table, key) != LUA_TNIL) {
		n = luaL_checkinteger(L, -1);
		if (n < 0 || n > UINT16_MAX)
			luaL_argerror(L, 2, lua_pushfstring(L, "%s: 0 to 65535 expected", key));
	}
	lua_pop(L, 1);
	return n;
}

static void take_allowed(lua_State *L, int table, struct lat_wg_peer *peer)
{
	if (lua_getfield(L, table, "allowed") == LUA_TNIL) {
		lua_pop(L, 1);
		return;
	}
	luaL_checktype(L, -1, LUA_TTABLE);
	peer->replace_allowed = true;
	for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++) {
		const char *text = luaL_checkstring(L, -1);
		struct lat_prefix prefix;

		if (lat_prefix_parse(text, &prefix) < 0)
			luaL_argerror(L, 2, lua_pushfstring(L, "allowed: '%s' is no prefix (address/length without host bits)", text));
		if (lat_wg_add_allowed(peer, &prefix) < 0)
			luaL_error(L, "out of memory");
		lua_pop(L, 1);
	}
	lua_pop(L, 2);
}

/* The peer on top of the stack; seen: a table of the keys so far. */
static void take_peer(lua_State *L, struct lat_wg_job *job, size_t n, int seen)
{
	int table = lua_gettop(L);
	uint8_t key[LAT_WG_KEY];
	struct lat_wg_peer *peer;
	lua_Integer keepalive;
	const char *text;

	luaL_checktype(L, table, LUA_TTABLE);
	lua_getfield(L, table, "key");
	text = luaL_checkstring(L, -1);
	if (lat_wg_key_parse(text, key) < 0)
		luaL_argerror(L, 2, lua_pushfstring(L, "peers: '%s' is no public key (44 characters of base64)", text));
	lua_pushvalue(L, -1);
	if (lua_rawget(L, seen) != LUA_TNIL)
		luaL_argerror(L, 2, lua_pushfstring(L, "peers: '%s' is there twice", text));
	lua_pushvalue(L, -2);
	lua_pushboolean(L, true);
	lua_rawset(L, seen);
	peer = lat_wg_add_peer(&job->wg, key);
	if (!peer)
		luaL_error(L, "out of memory");
	job->preshared[n] = lat_lua_wireguard_text(L, table, "preshared_file");
	keepalive = number_field(L, table, "keepalive", -1);
	peer->set_keepalive = keepalive >= 0;
	peer->keepalive = keepalive >= 0 ? (uint16_t)keepalive : 0;
	if (lua_getfield(L, table, "endpoint") != LUA_TNIL) {
		text = luaL_checkstring(L, -1);
		if (lat_wg_endpoint_parse(text, &peer->endpoint, &peer->port) < 0 || peer->port == 0)
			luaL_argerror(L, 2, lua_pushfstring(L, "endpoint: '%s' is not like 192.0.2.1:51820 or "
				"[2001:db8::1]:51820", text));
		peer->set_endpoint = true;
	}
	lua_getfield(L, table, "remove");
	peer->remove = lua_toboolean(L, -1);
	take_allowed(L, table, peer);
	lua_settop(L, table);
}

static void take_peers(lua_State *L, struct lat_wg_job *job)
{
	size_t count;

	if (lua_getfield(L, 2, "peers") == LUA_TNIL) {
		lua_pop(L, 1);
		return;
	}
	luaL_checktype(L, -1, LUA_TTABLE);
	count = lua_rawlen(L, -1);
	job->preshared = calloc(count + 1, sizeof(*job->preshared));
	if (!job->preshared)
		luaL_error(L, "out of memory");
	job->preshared_count = count;
	lua_newtable(L);
	for (size_t i = 0; i < count; i++) {
		lua_rawgeti(L, -2, (lua_Integer)i + 1);
		take_peer(L, job, i, lua_gettop(L) - 1);
		lua_pop(L, 1);
	}
	lua_pop(L, 2);
}

static struct lat_wg_job *job_of(lua_State *L, int done, lat_wg_work *run, lat_wg_result *result)
{
	struct lat_wg_box *device = lat_box_check(L, 1, &lat_lua_wireguard_type);
	struct lat_wg_job *job = lat_lua_wireguard_job(L, done, run, result);

	job->device = device;
	device->users++;
	return job;
}

int lat_lua_wireguard_set(lua_State *L)
{
	struct lat_wg_job *job;
	lua_Integer listen;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 3);
	job = job_of(L, 3, run_set, give_true);
	job->private_file = lat_lua_wireguard_text(L, 2, "private_key_file");
	listen = number_field(L, 2, "listen", -1);
	job->wg.set_listen = listen >= 0;
	job->wg.listen = listen >= 0 ? (uint16_t)listen : 0;
	lua_getfield(L, 2, "replace");
	job->replace = lua_toboolean(L, -1);
	lua_pop(L, 1);
	take_peers(L, job);
	return lat_lua_wireguard_start(L, job, 3);
}

/* ---- get ---- */

static int run_get(struct lat_wg_job *job)
{
	int r;

	snprintf(job->text, sizeof(job->text), "look at %s", job->device->device.name);
	r = lat_wg_get(&job->device->device, &job->wg);
	if (r == 0)
		explicit_bzero(job->wg.private_key, sizeof(job->wg.private_key));
	return r;
}

static bool is_zero(const uint8_t key[LAT_WG_KEY])
{
	uint8_t any = 0;

	for (int i = 0; i < LAT_WG_KEY; i++)
		any |= key[i];
	return any == 0;
}

static void set_key(lua_State *L, const char *name, const uint8_t key[LAT_WG_KEY])
{
	char text[LAT_WG_KEY_TEXT];

	lat_wg_key_format(key, text);
	lua_pushstring(L, text);
	lua_setfield(L, -2, name);
}

static void set_integer(lua_State *L, const char *name, lua_Integer value)
{
	lua_pushinteger(L, value);
	lua_setfield(L, -2, name);
}

static void push_peer(lua_State *L, const struct lat_wg_peer *peer)
{
	char text[LAT_ENDPOINT_TEXT];

	lua_createtable(L, 0, 8);
	set_key(L, "key", peer->key);
	lua_pushboolean(L, !is_zero(peer->preshared));
	lua_setfield(L, -2, "preshared");
	set_integer(L, "rx", (lua_Integer)peer->rx);
	set_integer(L, "tx", (lua_Integer)peer->tx);
	if (peer->handshake_s)
		set_integer(L, "handshake", peer->handshake_s);
	if (peer->keepalive)
		set_integer(L, "keepalive", peer->keepalive);
	if (peer->has_endpoint) {
		lua_pushstring(L, lat_endpoint_format(&peer->endpoint, peer->port, text, sizeof(text)));
		lua_setfield(L, -2, "endpoint");
	}
	lua_createtable(L, (int)peer->allowed_count, 0);
	for (size_t i = 0; i < peer->allowed_count; i++) {
		lua_pushfstring(L, "%s/%d", lat_addr_format(&peer->allowed[i].addr, text, sizeof(text)), peer->allowed[i].len);
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	lua_setfield(L, -2, "allowed");
}

static int give_state(lua_State *L, struct lat_wg_job *job)
{
	lua_createtable(L, 0, 3);
	if (!is_zero(job->wg.public_key))
		set_key(L, "public_key", job->wg.public_key);
	set_integer(L, "listen", job->wg.listen);
	lua_createtable(L, (int)job->wg.count, 0);
	for (size_t i = 0; i < job->wg.count; i++) {
		push_peer(L, &job->wg.peers[i]);
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	lua_setfield(L, -2, "peers");
	return 1;
}

int lat_lua_wireguard_get(lua_State *L)
{
	lua_settop(L, 2);
	return lat_lua_wireguard_start(L, job_of(L, 2, run_get, give_state), 2);
}
