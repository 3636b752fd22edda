/* lattice.dns: DNS messages in packets of an NFQUEUE, for who pins the answers to the names that were asked. Only what comes back
 * to a question that was seen is read, by the strict reader of loop/answer.h. */
#include "core/dns_message.h"
#include "core/flow_packet.h"
#include "core/names.h"
#include "kernel/link.h"
#include "launcher/nft.h"
#include "loop/answer.h"
#include "lua/api.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TABLE "lattice-names"
#define DNS_PORT 53

/* ---- the rules ---- */

/* Behind what rewrites addresses on the way out, before it on the way in: so question and answer show the same ends. */
static const struct lat_nft_hook outward = { NF_INET_POST_ROUTING, 200, false };
static const struct lat_nft_hook inward = { NF_INET_PRE_ROUTING, -150, false };

static void add_rule(struct lat_nft *n, bool out, const char *device, uint16_t number)
{
	uint16_t port = htons(DNS_PORT);

	lat_nft_rule(n, out ? "questions" : "answers");
	lat_nft_device(n, out, device);
	lat_nft_l4proto(n, IPPROTO_UDP);
	lat_nft_transport(n, out ? 2 : 0, 2, &port, NULL);
	lat_nft_queue(n, number);
}

/* The table of one family: what was there goes, and unless `names` is NULL ours comes, in one transaction. */
static int change(int fd, uint8_t family, const char *const *names, size_t count, uint16_t number, bool compat)
{
	struct lat_nft n;
	int r = lat_nft_begin(&n, TABLE);

	if (r < 0)
		return r;
	n.family = family;
	n.compat_queue = compat;
	lat_nft_table_remove(&n);
	if (names) {
		lat_nft_table(&n);
		lat_nft_chain(&n, "questions", &outward);
		lat_nft_chain(&n, "answers", &inward);
		for (size_t i = 0; i < count; i++) {
			add_rule(&n, true, names[i], number);
			add_rule(&n, false, names[i], number);
		}
	}
	r = lat_nft_end(&n);
	if (r == 0)
		r = lat_nft_send(fd, &n);
	lat_nft_free(&n);
	return r;
}

static int change_both(const char *const *names, size_t count, uint16_t number)
{
	static const uint8_t families[] = { NFPROTO_IPV4, NFPROTO_IPV6 };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER), r = fd < 0 ? -errno : 0;

	for (int i = 0; r == 0 && i < 2; i++) {
		r = change(fd, families[i], names, count, number, false);
		if (r == -ENOENT && names) /* a kernel without nft_queue */
			r = change(fd, families[i], names, count, number, true);
	}
	for (int i = 0; r < 0 && fd >= 0 && names && i < 2; i++)
		change(fd, families[i], NULL, 0, 0, false);
	if (fd >= 0)
		close(fd);
	return r;
}

static int l_hold(lua_State *L)
{
	const char *names[64];
	size_t count;
	lua_Integer number = luaL_checkinteger(L, 2);
	int r;

	luaL_checktype(L, 1, LUA_TTABLE);
	luaL_argcheck(L, number >= 0 && number <= UINT16_MAX, 2, "a queue number expected");
	count = lua_rawlen(L, 1);
	luaL_argcheck(L, count <= sizeof(names) / sizeof(names[0]), 1, "at most 64 devices");
	for (size_t i = 0; i < count; i++) {
		lua_rawgeti(L, 1, (lua_Integer)i + 1);
		names[i] = luaL_checkstring(L, -1); /* stays in the table */
		luaL_argcheck(L, lat_link_name_ok(names[i]), 1, "names of devices expected");
		lua_pop(L, 1);
	}
	r = change_both(names, count, (uint16_t)number);
	if (r < 0)
		return lat_push_errno(L, r, "hold DNS in a queue");
	lua_pushboolean(L, true);
	return 1;
}

static int l_release(lua_State *L)
{
	int r = change_both(NULL, 0, 0);

	if (r < 0)
		return lat_push_errno(L, r, "remove the rules for DNS");
	lua_pushboolean(L, true);
	return 1;
}

/* ---- the packets ---- */

/* A UDP packet with a DNS header at index 1. */
static bool dns_packet(lua_State *L, struct lat_packet *p)
{
	size_t size;
	const char *data = luaL_checklstring(L, 1, &size);

	return lat_packet_parse((const uint8_t *)data, size, p) == 0 && p->flow.proto == IPPROTO_UDP && p->payload_size >= 12;
}

/* Who asked whom, and the question's number: the same for a question and its answer. */
static void push_key(lua_State *L, const struct lat_packet *p, bool answer)
{
	const struct lat_flow *f = &p->flow;
	uint8_t key[38];

	memcpy(key, answer ? f->remote.b : f->local.b, 16);
	memcpy(key + 16, answer ? f->local.b : f->remote.b, 16);
	memcpy(key + 32, answer ? &f->dport : &f->sport, 2);
	memcpy(key + 34, answer ? &f->sport : &f->dport, 2);
	memcpy(key + 36, p->payload, 2);
	lua_pushlstring(L, (const char *)key, sizeof(key));
}

static int l_question(lua_State *L)
{
	struct lat_dns_query query;
	char name[LAT_NAME_MAX];
	struct lat_packet p;

	if (!dns_packet(L, &p) || lat_dns_query_parse(p.payload, p.payload_size, &query) != 0 || query.qclass != 1 ||
		(query.qtype != LAT_DNS_A && query.qtype != LAT_DNS_AAAA) ||
		lat_name_normalize(query.text, strlen(query.text), name) < 0)
		return 0;
	push_key(L, &p, false);
	lua_pushstring(L, name);
	lua_pushinteger(L, query.qtype == LAT_DNS_A ? 4 : 6);
	return 3;
}

static int l_answer(lua_State *L)
{
	struct lat_packet p;

	if (!dns_packet(L, &p) || !(p.payload[2] & 0x80))
		return 0;
	push_key(L, &p, true);
	return 1;
}

static int l_addresses(lua_State *L)
{
	const char *name = luaL_checkstring(L, 2);
	lua_Integer family = luaL_checkinteger(L, 3);
	struct lat_resolved *found;
	struct lat_packet p;

	luaL_argcheck(L, family == 4 || family == 6, 3, "4 or 6 expected");
	found = lua_newuserdatauv(L, sizeof(*found), 0);
	memset(found, 0, sizeof(*found));
	if (!dns_packet(L, &p) || lat_answer_read(p.payload, p.payload_size, name, (int)family, found) < 0)
		return 0;
	lua_createtable(L, (int)found->addr_count, 0);
	for (size_t i = 0; i < found->addr_count; i++) {
		char text[LAT_ADDR_TEXT];
		uint32_t ttl = found->addrs[i].ttl;

		for (size_t j = 0; j < found->cname_count; j++) /* it holds as long as the whole chain does */
			ttl = found->cnames[j].ttl < ttl ? found->cnames[j].ttl : ttl;
		lua_createtable(L, 0, 2);
		lua_pushstring(L, lat_addr_format(&found->addrs[i].addr, text, sizeof(text)));
		lua_setfield(L, -2, "addr");
		lua_pushinteger(L, ttl);
		lua_setfield(L, -2, "ttl");
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	return 1;
}

#define FAILS ", string? error, string? code"
static const struct lat_api_function functions[] = {
	{ "hold", l_hold, "devices: string[], number: integer", "boolean?" FAILS,
		"Make DNS over UDP that leaves by these devices (questions) or comes in by them (answers) wait in this queue; "
		"without a reader it is dropped. Replaces what an earlier call made." },
	{ "release", l_release, "", "boolean?" FAILS, "Take the rules of hold away." },
	{ "question", l_question, "packet: string", "string? key, string? name, integer? family",
		"What an IP packet asks, if it is one well-formed question for addresses." },
	{ "answer", l_answer, "packet: string", "string? key", "Which question an IP packet answers, if it is an answer." },
	{ "addresses", l_addresses, "packet: string, name: string, family: integer", "lattice.dns.Address[]?",
		"The addresses that an answer gives for the name, by its chain of aliases; nil for garbage." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.dns.Address", "An address of an answer; ttl in seconds.", NULL, NULL, "addr: string, ttl: integer" },
	{ 0 },
};

const struct lat_api lat_api_dns = {
	.name = "lattice.dns",
	.doc = "DNS messages in packets that wait in a queue.",
	.functions = functions,
	.classes = classes,
};
