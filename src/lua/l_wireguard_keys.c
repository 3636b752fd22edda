/* lattice.wireguard: key files, and whether the kernel has WireGuard. */
#include "kernel/netns.h"
#include "lua/l_wireguard.h"
#include <errno.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* nil, message with the way out, code */
int lat_lua_wireguard_key_failed(lua_State *L, int r, const char *path)
{
	char text[512];

	lat_lua_wireguard_key_text(r, path, text, sizeof(text));
	return lat_push_errno(L, r, text);
}

void lat_lua_wireguard_key_text(int r, const char *path, char *text, size_t size)
{
	const char *way = r == -EPERM ? ": others than its owner may read or change it (chmod 600 it)"
		: r == -EKEYREJECTED ? ": it belongs to another user (chown it)"
		: r == -EBADMSG ? ": it holds no key (wg genkey makes one)" : "";

	snprintf(text, size, "key file %s%s", path, way);
}

int lat_lua_wireguard_public_key(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	uint8_t key[LAT_WG_KEY], public_key[LAT_WG_KEY];
	char text[LAT_WG_KEY_TEXT];
	int r = lat_wg_key_load(path, key);

	if (r == 0)
		r = lat_wg_key_public(key, public_key);
	explicit_bzero(key, sizeof(key));
	if (r < 0)
		return lat_lua_wireguard_key_failed(L, r, path);
	lat_wg_key_format(public_key, text);
	lua_pushstring(L, text);
	return 1;
}

int lat_lua_wireguard_create_key(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	uint8_t public_key[LAT_WG_KEY];
	char text[LAT_WG_KEY_TEXT];
	int r = lat_wg_key_create(path, public_key);

	if (r < 0)
		return lat_push_errno(L, r, lua_pushfstring(L, "make key file %s", path));
	lat_wg_key_format(public_key, text);
	lua_pushstring(L, text);
	return 1;
}

int lat_lua_wireguard_valid_key(lua_State *L)
{
	uint8_t key[LAT_WG_KEY];
	size_t len;
	const char *text = luaL_checklstring(L, 1, &len);

	lua_pushboolean(L, strlen(text) == len && lat_wg_key_parse(text, key) == 0);
	return 1;
}

/* In a namespace of its own, which takes what was made along. */
int lat_lua_wireguard_kernel(lua_State *L)
{
	struct lat_links *links;
	struct lat_netns *ns;
	int fd, r = lat_netns_open(&ns);

	if (r == 0) {
		fd = lat_netns_socket(ns, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
		r = fd < 0 ? fd : lat_links_open(fd, &links);
		if (r == 0) {
			r = lat_link_add(links, "wireguard", "probe");
			lat_links_close(links);
		}
		lat_netns_close(ns);
	}
	if (r < 0)
		return lat_push_errno(L, r, "make a WireGuard device");
	lua_pushboolean(L, true);
	return 1;
}
