/* The two ways of the tc programs to read a packet (bpf/parse.bpf.h), compiled for this host: what the short way takes, the
 * long way reads the same; and the short way takes what it is for. */
#if !__has_include(<bpf/bpf_helpers.h>)
#include <stdio.h>
int main(void)
{
	puts("bpf/bpf_helpers.h is not here (libbpf-dev)");
	return 77;
}
#else
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wint-to-pointer-cast"
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <cmocka.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

static uint8_t *frame; /* at an address of 32 bits, as a program sees it */

static long load_bytes(const struct __sk_buff *skb, uint32_t at, void *to, uint32_t len)
{
	if (at > skb->len || len > skb->len - at)
		return -1;
	memcpy(to, frame + at, len);
	return 0;
}

#define bpf_skb_load_bytes load_bytes
#include "../../bpf/parse.bpf.h"

#define ROUNDS 400000
static uint64_t seed = 88172645463325252u;

static uint32_t dice(uint32_t sides)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 11) % sides;
}

/* A frame that is right, of either version, TCP or UDP. */
static uint32_t build(int ether, int v6, int tcp, uint32_t payload)
{
	uint8_t *ip = frame + (ether ? 14 : 0), *t = ip + (v6 ? 40 : 20);
	uint32_t size = (tcp ? 20u : 8u) + payload;

	for (int i = 0; i < 200; i++)
		frame[i] = (uint8_t)dice(256);
	if (ether)
		memcpy(frame + 12, v6 ? "\x86\xdd" : "\x08", 2);
	if (v6) {
		ip[0] = 0x60;
		ip[4] = 0;
		ip[5] = (uint8_t)size;
		ip[6] = tcp ? 6 : 17;
	} else {
		ip[0] = 0x45;
		ip[2] = 0;
		ip[3] = (uint8_t)(20 + size);
		ip[6] = ip[7] = 0;
		ip[9] = tcp ? 6 : 17;
	}
	if (tcp)
		t[12] = 0x50;
	return (uint32_t)(t - frame) + size;
}

static struct __sk_buff packet_of(uint32_t len, uint32_t linear)
{
	struct __sk_buff skb = { .len = len };

	skb.data = (uint32_t)(uintptr_t)frame;
	skb.data_end = skb.data + linear;
	return skb;
}

static int same(const struct packet *a, const struct packet *b)
{
	return memcmp(&a->key, &b->key, sizeof(a->key)) == 0 && memcmp(&a->quote, &b->quote, sizeof(a->quote)) == 0 &&
	       a->sport == b->sport && a->dport == b->dport && a->port == b->port && a->flags == b->flags &&
	       a->begins == b->begins && a->answers == b->answers && a->first == b->first && a->later == b->later &&
	       a->untracked == b->untracked;
}

static void plain_packets_are_read_the_short_way(void **state)
{
	for (int kind = 0; kind < 16; kind++) {
		uint32_t len = build(kind & 1, kind & 2, kind & 4, 30);
		struct __sk_buff skb = packet_of(len, len);
		struct packet p = { .dir = kind & 8 ? DIR_IN : DIR_OUT };

		assert_true(parse_plain(&skb, &p, kind & 1));
	}
}

static void both_ways_read_the_same(void **state)
{
	unsigned taken = 0;

	for (int round = 0; round < ROUNDS; round++) {
		int ether = (int)dice(2), edits = (int)dice(4);
		uint32_t len = build(ether, (int)dice(2), (int)dice(2), dice(60)), linear = len;
		struct packet a = { .dir = (uint8_t)dice(2), .key = { .ifindex = 7 } }, b = a;
		struct __sk_buff skb;

		for (int i = 0; i < edits; i++)
			frame[dice(60)] = (uint8_t)(dice(2) ? dice(256) : dice(8));
		if (dice(8) == 0) /* ::ffff:a.b.c.d where IPv6 has an address */
			memcpy(frame + (ether ? 14 : 0) + (dice(2) ? 8 : 24), "\0\0\0\0\0\0\0\0\0\0\xff\xff", 12);
		if (dice(4) == 0)
			len = linear = dice(len + 1);
		if (dice(4) == 0)
			linear = dice(linear + 1);
		skb = packet_of(len, linear);
		if (dice(8) == 0)
			skb.gso_size = 1448;
		if (!parse_plain(&skb, &a, (uint32_t)ether)) {
			assert_true(same(&a, &b)); /* nothing was written */
			continue;
		}
		taken++;
		assert_int_equal(parse_any(&skb, &b, (uint32_t)ether), IS_FLOW);
		assert_true(same(&a, &b));
	}
	assert_true(taken > ROUNDS / 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_packets_are_read_the_short_way),
		cmocka_unit_test(both_ways_read_the_same),
	};

	frame = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (frame == MAP_FAILED)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
