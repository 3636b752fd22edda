/* What the parser of held packets takes for a flow, and what it must not. */
#include "core/flow_packet.h"
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static const uint8_t syn[20] = { 0x10, 0, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff };

static size_t ip4(uint8_t *p, uint8_t proto, const void *payload, size_t size)
{
	const uint8_t head[20] = { 0x45, 0, 0, (uint8_t)(20 + size), 0, 0, 0, 0, 64, proto, 0, 0, 192, 0, 0, 2, 203, 0, 113, 9 };

	memcpy(p, head, 20);
	memcpy(p + 20, payload, size);
	return 20 + size;
}

static size_t ip6(uint8_t *p, uint8_t next, const void *payload, size_t size)
{
	memset(p, 0, 40);
	p[0] = 0x60;
	p[5] = (uint8_t)size;
	p[6] = next;
	p[8] = 0xfd;
	p[23] = 2;
	p[24] = 0x20;
	p[39] = 9;
	memcpy(p + 40, payload, size);
	return 40 + size;
}

static bool flows(const uint8_t *p, size_t size, struct lat_packet *out)
{
	uint8_t *exact = malloc(size ? size : 1); /* a read past the end is seen under a sanitizer */
	int r;

	memcpy(exact, p, size);
	r = lat_packet_parse(exact, size, out);
	free(exact);
	return r == 0;
}

static void syn_is_a_flow(void **state)
{
	struct lat_packet p;
	uint8_t buf[200];
	char text[LAT_ENDPOINT_TEXT];

	assert_true(flows(buf, ip4(buf, IPPROTO_TCP, syn, sizeof(syn)), &p));
	assert_string_equal(lat_endpoint_format(&p.flow.remote, p.flow.dport, text, sizeof(text)), "203.0.113.9:80");
	assert_string_equal(lat_endpoint_format(&p.flow.local, p.flow.sport, text, sizeof(text)), "192.0.0.2:4096");
	assert_int_equal(p.tcp_seq, 0x01020304);
	assert_int_equal(p.payload_size, 0);
	assert_true(flows(buf, ip6(buf, IPPROTO_TCP, syn, sizeof(syn)), &p));
	assert_string_equal(lat_endpoint_format(&p.flow.remote, p.flow.dport, text, sizeof(text)), "[2000::9]:80");
}

static void every_cut_of_a_packet_is_none(void **state)
{
	static const uint8_t udp[12] = { 0x10, 0, 0, 53, 0, 12 }, echo[12] = { 8 };
	struct lat_packet p;
	uint8_t buf[200];
	size_t sizes[3];

	sizes[0] = ip4(buf, IPPROTO_TCP, syn, sizeof(syn));
	for (size_t n = 0; n < sizes[0]; n++)
		assert_false(flows(buf, n, &p));
	sizes[1] = ip4(buf, IPPROTO_UDP, udp, sizeof(udp));
	assert_true(flows(buf, sizes[1], &p));
	assert_int_equal(p.payload_size, 4);
	for (size_t n = 0; n < sizes[1]; n++)
		assert_false(flows(buf, n, &p));
	sizes[2] = ip4(buf, IPPROTO_ICMP, echo, sizeof(echo));
	assert_true(flows(buf, sizes[2], &p));
	for (size_t n = 0; n < sizes[2]; n++)
		assert_false(flows(buf, n, &p));
}

static void only_a_lone_syn_opens(void **state)
{
	struct lat_packet p;
	uint8_t buf[200], tcp[20];

	for (unsigned flags = 0; flags < 256; flags++) {
		memcpy(tcp, syn, sizeof(tcp));
		tcp[13] = (uint8_t)flags;
		assert_int_equal(flows(buf, ip4(buf, IPPROTO_TCP, tcp, sizeof(tcp)), &p), (flags & 0x17) == 0x02);
	}
}

static void what_hides_the_destination_is_refused(void **state)
{
	uint8_t buf[200], inner[64] = { IPPROTO_TCP }, fragment[28] = { IPPROTO_TCP, 0, 0, 1 };
	struct lat_packet p;
	size_t n;

	memcpy(inner + 8, syn, sizeof(syn));
	assert_true(flows(buf, ip6(buf, IPPROTO_HOPOPTS, inner, 28), &p)); /* options are skipped */
	assert_false(flows(buf, ip6(buf, IPPROTO_ROUTING, inner, 28), &p));
	memcpy(fragment + 8, syn, sizeof(syn));
	assert_false(flows(buf, ip6(buf, IPPROTO_FRAGMENT, fragment, 28), &p));
	n = ip4(buf, IPPROTO_TCP, syn, sizeof(syn));
	buf[6] = 0x20; /* more fragments */
	assert_false(flows(buf, n, &p));
	n = ip6(buf, IPPROTO_TCP, syn, sizeof(syn));
	memset(buf + 24, 0, 10); /* ::ffff:0.0.0.9 */
	buf[34] = buf[35] = 0xff;
	assert_false(flows(buf, n, &p));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(syn_is_a_flow),
		cmocka_unit_test(every_cut_of_a_packet_is_none),
		cmocka_unit_test(only_a_lone_syn_opens),
		cmocka_unit_test(what_hides_the_destination_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
