/* For tests of the tc programs: a network and a mount namespace of their own, policies made of entries, packets as bytes. */
#ifndef LAT_TESTS_TC_H
#define LAT_TESTS_TC_H
#include "core/image.h"
#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#define TC_PINS "/run/lattice-tc-test"

/* Namespaces with a tmpfs at /run; exits 77 where that or BPF cannot be had. */
static inline void tc_world(void)
{
	char say[LAT_TC_SAY];
	int r;

	if (unshare(CLONE_NEWNET | CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0) {
		printf("needs CAP_SYS_ADMIN and CAP_NET_ADMIN: %s\n", strerror(errno));
		exit(77);
	}
	r = lat_tc_probe(say);
	if (r < 0) {
		printf("needs the pro edition, CAP_BPF and CAP_NET_ADMIN: %s\n", say);
		exit(77);
	}
	/* The devices are quiet: no multicast listener reports among the packets that are counted. */
	if (system("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6; "
		"ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up && ip link set lo up"))
		exit(1);
}

static inline struct lat_entry tc_entry(uint32_t rule, uint8_t dir, const char *prefix, uint8_t proto, uint16_t lo,
	uint16_t hi)
{
	struct lat_entry e = { .rule = rule, .dir = dir, .proto = proto, .port_lo = lo, .port_hi = hi };

	if (lat_prefix_parse(prefix, &e.prefix) < 0)
		abort();
	return e;
}

static uint32_t tc_rate; /* of the rules of tc_apply */

/* One policy: actions[i] is of rule i + 1. */
static inline int tc_apply(struct lat_tc *tc, uint32_t generation, uint8_t def, const uint8_t *actions, size_t rules,
	const struct lat_entry *entries, size_t count, bool keep)
{
	struct lat_rule list[64] = { 0 };
	struct lat_image_spec spec = { .generation = generation, .default_action = def, .keep_established = keep,
		.rules = list, .rule_count = rules, .entries = entries, .entry_count = count };
	struct lat_tc_image image;
	char say[LAT_TC_SAY];
	int r;

	for (size_t i = 0; i < rules; i++) {
		list[i].action = actions[i];
		list[i].log = 1;
		list[i].rate = tc_rate;
		list[i].where = "test:1";
	}
	r = lat_image_build(&spec, &image);
	if (r < 0)
		return r;
	r = lat_tc_prepare(tc, &image, say);
	if (r == 0)
		r = lat_tc_flip(tc);
	lat_tc_settle(tc);
	lat_image_fini(&image);
	return r;
}

/* ---- packets ---- */

struct packet_bytes {
	uint8_t b[512];
	size_t n;
};

static inline void put(struct packet_bytes *p, const void *data, size_t n)
{
	memcpy(p->b + p->n, data, n);
	p->n += n;
}

static inline void put8(struct packet_bytes *p, uint8_t v)
{
	p->b[p->n++] = v;
}

static inline void put16(struct packet_bytes *p, uint16_t v)
{
	v = htons(v);
	put(p, &v, 2);
}

static inline void put32(struct packet_bytes *p, uint32_t v)
{
	v = htonl(v);
	put(p, &v, 4);
}

/* An address as the packet has it: 4 or 16 bytes. */
static inline void put_addr(struct packet_bytes *p, const char *text)
{
	uint8_t b[16];

	put(p, b, inet_pton(AF_INET, text, b) == 1 ? 4 : inet_pton(AF_INET6, text, b) == 1 ? 16 : 0);
}

static inline void put_ether(struct packet_bytes *p, uint16_t type)
{
	memset(p, 0, sizeof(*p));
	p->n = 12;
	put16(p, type);
}

/* The IPv4 header; `rest` bytes follow it. fragment: flags and offset as in the header. options: bytes, a multiple of 4. */
static inline void put_v4(struct packet_bytes *p, const char *src, const char *dst, uint8_t proto, uint16_t fragment,
	const void *options, size_t option_size, size_t rest)
{
	put8(p, (uint8_t)(0x45 + option_size / 4));
	put8(p, 0);
	put16(p, (uint16_t)(20 + option_size + rest));
	put16(p, 0x1234);
	put16(p, fragment);
	put8(p, 64);
	put8(p, proto);
	put16(p, 0);
	put_addr(p, src);
	put_addr(p, dst);
	if (option_size)
		put(p, options, option_size);
}

static inline void put_v6(struct packet_bytes *p, const char *src, const char *dst, uint8_t next, uint8_t hops, size_t rest)
{
	put32(p, 0x60000000);
	put16(p, (uint16_t)rest);
	put8(p, next);
	put8(p, hops);
	put_addr(p, src);
	put_addr(p, dst);
}

static inline void put_tcp(struct packet_bytes *p, uint16_t sport, uint16_t dport, uint8_t flags)
{
	put16(p, sport);
	put16(p, dport);
	put32(p, 1);
	put32(p, 1);
	put8(p, 0x50);
	put8(p, flags);
	put16(p, 1024);
	put32(p, 0);
}

static inline void put_udp(struct packet_bytes *p, uint16_t sport, uint16_t dport, size_t data)
{
	put16(p, sport);
	put16(p, dport);
	put16(p, (uint16_t)(8 + data));
	put16(p, 0);
	p->n += data;
}

static inline void put_icmp(struct packet_bytes *p, uint8_t type, uint8_t code, uint16_t id)
{
	put8(p, type);
	put8(p, code);
	put16(p, 0);
	put16(p, id);
	put16(p, 0);
}

static inline struct packet_bytes tcp4(const char *src, uint16_t sport, const char *dst, uint16_t dport, uint8_t flags)
{
	struct packet_bytes p;

	put_ether(&p, 0x0800);
	put_v4(&p, src, dst, 6, 0x4000, NULL, 0, 20);
	put_tcp(&p, sport, dport, flags);
	return p;
}

static inline struct packet_bytes udp4(const char *src, uint16_t sport, const char *dst, uint16_t dport)
{
	struct packet_bytes p;

	put_ether(&p, 0x0800);
	put_v4(&p, src, dst, 17, 0, NULL, 0, 16);
	put_udp(&p, sport, dport, 8);
	return p;
}

static inline struct packet_bytes tcp6(const char *src, uint16_t sport, const char *dst, uint16_t dport, uint8_t flags)
{
	struct packet_bytes p;

	put_ether(&p, 0x86dd);
	put_v6(&p, src, dst, 6, 64, 20);
	put_tcp(&p, sport, dport, flags);
	return p;
}

#endif
