/* kernel/wireguard.h: keys and their files, the texts of wireguard-go's control socket, and what a change consists of. */
#include "kernel/wireguard.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

/* RFC 7748, 6.1: Alice's keys. */
static const uint8_t alice_private[] = { 0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2,
	0x66, 0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a };
static const uint8_t alice_public[] = { 0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54, 0x74, 0x8b, 0x7d, 0xdc, 0xb4, 0x3e,
	0xf7, 0x5a, 0x0d, 0xbf, 0x3a, 0x0d, 0x26, 0x38, 0x1a, 0xf4, 0xeb, 0xa4, 0xa9, 0x8e, 0xaa, 0x9b, 0x4e, 0x6a };

static void public_keys_are_those_of_x25519(void **state)
{
	uint8_t key[LAT_WG_KEY], generated[LAT_WG_KEY], again[LAT_WG_KEY];
	char text[LAT_WG_KEY_TEXT];

	assert_int_equal(lat_wg_key_public(alice_private, key), 0);
	assert_memory_equal(key, alice_public, LAT_WG_KEY);
	lat_wg_key_format(key, text);
	assert_string_equal(text, "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
	assert_int_equal(lat_wg_key_parse(text, again), 0);
	assert_memory_equal(key, again, LAT_WG_KEY);
	lat_wg_key_generate(generated);
	assert_int_equal(generated[0] & 7, 0);
	assert_int_equal(generated[31] & 0xc0, 0x40);
}

static void what_is_no_key_is_refused(void **state)
{
	static const char *const texts[] = { "", "A", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo", /* no padding */
		"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTm==",
		"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTm*=", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=hSDw",
		"hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo=" };
	uint8_t key[LAT_WG_KEY] = { 7 };

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		assert_int_equal(lat_wg_key_parse(texts[i], key), -EINVAL);
		assert_int_equal(key[0], 7);
	}
}

static void key_files_are_the_owners_alone(void **state)
{
	static const struct { mode_t mode; int r; } modes[] = { { 0600, 0 }, { 0400, 0 }, { 0700, 0 }, { 0640, -EPERM },
		{ 0604, -EPERM }, { 0620, -EPERM }, { 0644, -EPERM }, { 0777, -EPERM } };
	char dir[] = "/tmp/lattice-key-XXXXXX", path[64];
	uint8_t made[LAT_WG_KEY], key[LAT_WG_KEY], public_key[LAT_WG_KEY];
	struct stat st;
	FILE *file;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/key", dir);
	assert_int_equal(lat_wg_key_load(path, key), -ENOENT);
	assert_int_equal(lat_wg_key_create(path, made), 0);
	assert_int_equal(lat_wg_key_create(path, made), -EEXIST);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(lat_wg_key_load(path, key), 0);
	assert_int_equal(lat_wg_key_public(key, public_key), 0);
	assert_memory_equal(made, public_key, LAT_WG_KEY);
	assert_int_equal(prctl(PR_GET_DUMPABLE), 0);
	prctl(PR_SET_DUMPABLE, 1);
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		assert_int_equal(chmod(path, modes[i].mode), 0);
		assert_int_equal(lat_wg_key_load(path, key), modes[i].r);
	}
	chmod(path, 0600);
	if (geteuid() == 0 && chown(path, 65534, 65534) == 0)
		assert_int_equal(lat_wg_key_load(path, key), -EKEYREJECTED);
	unlink(path);
	file = fopen(path, "w");
	assert_non_null(file);
	fputs("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\nmore\n", file);
	fclose(file);
	chmod(path, 0600);
	assert_int_equal(lat_wg_key_load(path, key), -EBADMSG);
	unlink(path);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(lat_wg_key_load(path, key), -EBADMSG);
	rmdir(path);
	rmdir(dir);
	prctl(PR_SET_DUMPABLE, 1); /* for the sanitizers */
}

static void endpoints_are_numeric(void **state)
{
	static const char *const bad[] = { "", "10.0.0.1", "10.0.0.1:", "10.0.0.1:65536", "10.0.0.1:1a", ":51820",
		"peer.example:51820", "2001:db8::1:51820:", "[2001:db8::1]", "[2001:db8::1:51820", "2001:db8::1]:5", "[10.0.0.1]:5",
		"2001:db8::1:51820", "[]:5", "[:5" };
	struct lat_addr a;
	uint16_t port = 1;
	char text[LAT_ENDPOINT_TEXT];

	assert_int_equal(lat_wg_endpoint_parse("192.0.2.1:51820", &a, &port), 0);
	assert_string_equal(lat_endpoint_format(&a, port, text, sizeof(text)), "192.0.2.1:51820");
	assert_int_equal(lat_wg_endpoint_parse("[2001:db8::1]:65535", &a, &port), 0);
	assert_string_equal(lat_endpoint_format(&a, port, text, sizeof(text)), "[2001:db8::1]:65535");
	assert_int_equal(lat_wg_endpoint_parse("[fe80::1%eth0]:7", &a, &port), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		port = 1;
		assert_int_equal(lat_wg_endpoint_parse(bad[i], &a, &port), -EINVAL);
		assert_int_equal(port, 1);
	}
}

static void allow(struct lat_wg_peer *peer, const char *text)
{
	struct lat_prefix prefix;

	assert_int_equal(lat_prefix_parse(text, &prefix), 0);
	assert_int_equal(lat_wg_add_allowed(peer, &prefix), 0);
}

static struct lat_wg_peer *peer(struct lat_wg *wg, uint8_t first)
{
	uint8_t key[LAT_WG_KEY] = { first };
	struct lat_wg_peer *p = lat_wg_add_peer(wg, key);

	assert_non_null(p);
	return p;
}

static void a_change_as_text(void **state)
{
	struct lat_wg wg = { .set_listen = true, .listen = 51820, .set_private = true };
	struct lat_wg_peer *p;
	char *text;

	memcpy(wg.private_key, alice_private, LAT_WG_KEY);
	peer(&wg, 0xee)->remove = true;
	p = peer(&wg, 0x01);
	p->set_keepalive = p->set_endpoint = p->replace_allowed = true;
	p->keepalive = 25;
	assert_int_equal(lat_wg_endpoint_parse("[2001:db8::1]:51820", &p->endpoint, &p->port), 0);
	allow(p, "10.42.0.2/32");
	allow(p, "fd42::/64");
	text = lat_wg_uapi_format(&wg);
	assert_string_equal(text,
		"set=1\n"
		"private_key=77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a\n"
		"listen_port=51820\n"
		"public_key=ee00000000000000000000000000000000000000000000000000000000000000\n"
		"remove=true\n"
		"public_key=0100000000000000000000000000000000000000000000000000000000000000\n"
		"endpoint=[2001:db8::1]:51820\n"
		"persistent_keepalive_interval=25\n"
		"replace_allowed_ips=true\n"
		"allowed_ip=10.42.0.2/32\n"
		"allowed_ip=fd42::/64\n"
		"\n");
	free(text);
	lat_wg_wipe(&wg);
	assert_null(wg.peers);
}

static int parse(const char *text, struct lat_wg *out)
{
	char *copy = strdup(text);
	int r = lat_wg_uapi_parse(copy, out);

	free(copy);
	return r;
}

static void a_state_as_text(void **state)
{
	struct lat_wg wg;

	assert_int_equal(parse("private_key=77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a\n"
			       "listen_port=51820\nfwmark=1\n"
			       "public_key=0100000000000000000000000000000000000000000000000000000000000000\n"
			       "preshared_key=0000000000000000000000000000000000000000000000000000000000000000\n"
			       "protocol_version=1\nendpoint=192.0.2.1:4000\nlast_handshake_time_sec=1700000000\n"
			       "last_handshake_time_nsec=5\ntx_bytes=12\nrx_bytes=18446744073709551615\n"
			       "persistent_keepalive_interval=25\nallowed_ip=10.42.0.2/32\nallowed_ip=fd42::/64\n"
			       "something_new=1\nerrno=0\n\n", &wg), 0);
	assert_int_equal(wg.listen, 51820);
	assert_memory_equal(wg.public_key, alice_public, LAT_WG_KEY);
	assert_int_equal(wg.count, 1);
	assert_int_equal(wg.peers[0].allowed_count, 2);
	assert_int_equal(wg.peers[0].keepalive, 25);
	assert_true(wg.peers[0].rx == UINT64_MAX && wg.peers[0].tx == 12 && wg.peers[0].handshake_s == 1700000000);
	assert_true(wg.peers[0].has_endpoint && wg.peers[0].port == 4000);
	lat_wg_wipe(&wg);
}

static void broken_states_are_refused(void **state)
{
	static const struct { const char *text; int r; } cases[] = { { "", -EBADMSG }, { "errno=0", 0 }, { "errno=-22\n\n", -EINVAL },
		{ "errno=16\n\n", -EBUSY }, { "errno=x\n\n", -EBADMSG }, { "errno=99999999999\n\n", -EBADMSG }, { "listen_port=1\n\n", -EBADMSG },
		{ "no equals sign\nerrno=0\n\n", -EBADMSG }, { "listen_port=65536\nerrno=0\n\n", -EBADMSG },
		{ "public_key=01\nerrno=0\n\n", -EBADMSG }, { "private_key=zz\nerrno=0\n\n", -EBADMSG },
		{ "public_key=0100000000000000000000000000000000000000000000000000000000000000\nallowed_ip=10.0.0.0/33\nerrno=0\n\n",
			-EBADMSG },
		{ "public_key=0100000000000000000000000000000000000000000000000000000000000000\nendpoint=x\nerrno=0\n\n", -EBADMSG } };

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct lat_wg wg = { .listen = 9 };

		assert_int_equal(parse(cases[i].text, &wg), cases[i].r);
		assert_int_equal(wg.listen, cases[i].r ? 9 : 0);
	}
}

static void a_difference_leaves_alone_what_stays(void **state)
{
	struct lat_wg now = { .set_private = true, .listen = 51820 }, wanted = { .set_private = true, .set_listen = true, .listen = 51820 };
	struct lat_wg diff = { 0 };
	struct lat_wg_peer *p;

	p = peer(&now, 1); /* stays: the same set in another order */
	allow(p, "10.0.0.0/8");
	allow(p, "fd42::/64");
	p->keepalive = 25;
	allow(peer(&now, 2), "10.1.0.0/16"); /* loses an address */
	peer(&now, 3);                       /* goes */
	p = peer(&wanted, 4);                /* comes */
	allow(p, "10.9.0.0/16");
	p = peer(&wanted, 1);
	allow(p, "fd42::/64");
	allow(p, "10.0.0.0/8");
	p->keepalive = 25;
	peer(&wanted, 2);
	assert_int_equal(lat_wg_diff(&now, &wanted, &diff), 0);
	assert_false(diff.set_private);
	assert_false(diff.set_listen);
	assert_int_equal(diff.count, 3);
	assert_true(diff.peers[0].key[0] == 3 && diff.peers[0].remove);
	assert_true(diff.peers[1].key[0] == 4 && diff.peers[1].allowed_count == 1 && !diff.peers[1].remove);
	assert_true(diff.peers[2].key[0] == 2 && diff.peers[2].replace_allowed && diff.peers[2].allowed_count == 0);
	lat_wg_wipe(&diff);

	wanted.private_key[5] = 1;
	wanted.listen = 1;
	wanted.peers[1].preshared[0] = 1;
	assert_int_equal(lat_wg_diff(&now, &wanted, &diff), 0);
	assert_true(diff.set_private && diff.private_key[5] == 1 && diff.set_listen && diff.listen == 1);
	assert_int_equal(diff.count, 4);
	assert_true(diff.peers[2].key[0] == 1 && diff.peers[2].set_preshared && !diff.peers[2].replace_allowed);
	lat_wg_wipe(&diff);
	lat_wg_wipe(&now);
	lat_wg_wipe(&wanted);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(public_keys_are_those_of_x25519),
		cmocka_unit_test(what_is_no_key_is_refused),
		cmocka_unit_test(key_files_are_the_owners_alone),
		cmocka_unit_test(endpoints_are_numeric),
		cmocka_unit_test(a_change_as_text),
		cmocka_unit_test(a_state_as_text),
		cmocka_unit_test(broken_states_are_refused),
		cmocka_unit_test(a_difference_leaves_alone_what_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
