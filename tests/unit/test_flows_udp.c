/* The flow engine on UDP and ICMP echo, through a real trap. */
#include "base/mem.h"
#include "core/flows.h"
#include "support/dial.h"
#include "support/engine.h"
#include <netinet/ip_icmp.h>
#include <netinet/icmp6.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

/* ---- inside ---- */

static bool exchange(int fd, const char *out, size_t size)
{
	static char in[70000];

	return send(fd, out, size, 0) == (ssize_t)size && recv(fd, in, sizeof(in), 0) == (ssize_t)size &&
	       memcmp(in, out, size) == 0;
}

/* Boundaries: empty, tiny and the largest datagram come back as they were. */
static int inside_sizes(void *arg)
{
	static char big[65507];
	int fd = target_connect(arg, SOCK_DGRAM);

	memset(big, 'b', sizeof(big));
	if (!exchange(fd, "hello", 5))
		return 1;
	if (!exchange(fd, "", 0))
		return 2;
	if (!exchange(fd, big, sizeof(big) - 48))
		return 3;
	return exchange(fd, "x", 1) ? 0 : 4;
}

static int inside_one(void *arg)
{
	return exchange(target_connect(arg, SOCK_DGRAM), "one", 3) ? 0 : 1;
}

static int inside_send_only(void *arg)
{
	return send(target_connect(arg, SOCK_DGRAM), "x", 1, 0) == 1 ? 0 : 1;
}

static int inside_many(void *arg)
{
	int fds[16];

	for (int round = 0; round < 2; round++)
		for (int i = 0; i < 16; i++) {
			if (round == 0)
				fds[i] = target_connect(arg, SOCK_DGRAM);
			if (!exchange(fds[i], "many", 4))
				return i + 1;
		}
	return 0;
}

/* One unconnected socket, two places: each answers from its own address. */
static int inside_two_places(void *arg)
{
	static const struct target places[] = { { FAR4, 80 }, { "203.0.113.10", 80 } };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	for (int i = 0; i < 2; i++) {
		struct sockaddr_storage to;
		struct sockaddr_in from;
		socklen_t len = target_address(&places[i], &to), from_len = sizeof(from);
		char in[8];

		if (sendto(fd, "hi", 2, 0, (struct sockaddr *)&to, len) != 2)
			return 1;
		if (recvfrom(fd, in, sizeof(in), 0, (struct sockaddr *)&from, &from_len) != 2)
			return 2;
		if (memcmp(&from, &to, offsetof(struct sockaddr_in, sin_zero)) != 0)
			return 3;
	}
	return 0;
}

static int inside_send_errno(void *arg)
{
	int fd = target_connect(arg, SOCK_DGRAM);
	char in[8];

	if (send(fd, "x", 1, 0) != 1)
		return 200;
	return recv(fd, in, sizeof(in), 0) < 0 ? errno : 0;
}

/* Refused, sent again at once: refused again. */
static int inside_refused_twice(void *arg)
{
	int fd = target_connect(arg, SOCK_DGRAM);
	char in[8];

	for (int i = 0; i < 2; i++)
		if (send(fd, "x", 1, 0) != 1 || recv(fd, in, sizeof(in), 0) != -1 || errno != ECONNREFUSED)
			return i + 1;
	return 0;
}

/* The same source port by another socket, after the first one is closed. */
static int inside_port_reuse(void *arg)
{
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons(4242), .sin_addr.s_addr = inet_addr("192.0.0.2") };
	struct sockaddr_storage to;
	socklen_t len = target_address(arg, &to);

	for (int i = 0; i < 3; i++) {
		int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

		if (bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0 || connect(fd, (struct sockaddr *)&to, len) < 0)
			return 100 + errno;
		if (!exchange(fd, "reuse", 5))
			return i + 1;
		close(fd);
	}
	return 0;
}

/* A socket bound to the any-address, on the very port that it talks to (as NTP and the like do): the port is taken then,
 * for every address is local inside. */
static int inside_same_port(void *arg)
{
	static char big[60000];
	struct sockaddr_storage to, own = { 0 }, from;
	socklen_t len = target_address(arg, &to);
	struct timeval bound = { .tv_sec = 15 };
	static const size_t sizes[] = { 5, 0, sizeof(big), 5 };
	int fd = socket(to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	own.ss_family = to.ss_family;
	((struct sockaddr_in *)&own)->sin_port = htons(80); /* the same place in both families */
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound));
	memset(big, 'b', sizeof(big));
	if (bind(fd, (struct sockaddr *)&own, len) < 0)
		return 100 + errno;
	for (int i = 0; i < 4; i++) {
		static char in[sizeof(big)];
		socklen_t from_len = sizeof(from);

		if (sendto(fd, big, sizes[i], 0, (struct sockaddr *)&to, len) != (ssize_t)sizes[i])
			return 10 + i;
		memset(in, 0, sizeof(in));
		memset(&from, 0, sizeof(from));
		if (recvfrom(fd, in, sizeof(in), 0, (struct sockaddr *)&from, &from_len) != (ssize_t)sizes[i])
			return 20 + i;
		if (memcmp(in, big, sizes[i]) != 0 || memcmp(&from, &to, to.ss_family == AF_INET ? 8 : 24) != 0)
			return 30 + i;
	}
	return 0;
}

static int inside_same_port_refused(void *arg)
{
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons(((struct target *)arg)->port) };
	struct sockaddr_storage to;
	socklen_t len = target_address(arg, &to);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), on = 1;
	struct timeval bound = { .tv_sec = 15 };
	char in[8];

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound));
	setsockopt(fd, SOL_IP, IP_RECVERR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0 || sendto(fd, "x", 1, 0, (struct sockaddr *)&to, len) != 1)
		return 200;
	return recv(fd, in, sizeof(in), 0) < 0 ? errno : 0;
}

static int inside_ping(void *arg)
{
	struct target *t = arg;
	struct sockaddr_storage to;
	socklen_t len = target_address(t, &to);
	bool is4 = to.ss_family == AF_INET;
	int fd = socket(to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, is4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
	struct timeval bound = { .tv_sec = t->port ? t->port : 15 };
	int on = 1;

	if (fd < 0)
		return 77;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound));
	setsockopt(fd, SOL_IP, IP_RECVERR, &on, sizeof(on));
	if (!is4)
		setsockopt(fd, SOL_IPV6, IPV6_RECVERR, &on, sizeof(on));
	if (connect(fd, (struct sockaddr *)&to, len) < 0)
		return errno;
	for (uint8_t i = 1; i < 4; i++) {
		uint8_t out[64] = { is4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST, [7] = i }, in[128];

		memset(out + 8, 'p', sizeof(out) - 8);
		if (send(fd, out, sizeof(out), 0) != sizeof(out))
			return errno;
		if (recv(fd, in, sizeof(in), 0) != sizeof(out))
			return errno;
		if (in[0] != (is4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY) || in[7] != i || memcmp(in + 8, out + 8, 56) != 0)
			return 201;
	}
	return 0;
}

/* ---- tests ---- */

static bool cut(void *ctx, struct lat_flow_info *info)
{
	return false;
}

static void datagrams_keep_their_boundaries(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_sizes, &(struct target){ FAR4, 80 }), 0);
	assert_int_equal(engine_run(e, inside_sizes, &(struct target){ FAR6, 80 }), 0);
	assert_int_equal(e->judged, 2);
}

static void each_client_socket_is_a_flow_of_its_own(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_many, &(struct target){ FAR4, 80 }), 0);
	assert_int_equal(e->judged, 16);
}

static void unconnected_socket_talks_to_two_places(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_two_places, NULL), 0);
	assert_int_equal(e->judged, 2);
}

static void new_socket_on_the_same_port_is_served(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_port_reuse, &(struct target){ FAR4, 80 }), 0);
}

static void socket_of_any_address_on_the_same_port_is_served(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_same_port, &(struct target){ FAR4, 80 }), 0);
	assert_int_equal(engine_run(e, inside_same_port, &(struct target){ FAR6, 80 }), 0);
	assert_int_equal(e->judged, 2);
	assert_int_equal(e->last.bytes_in, 0); /* not closed yet */
	lat_flows_sweep(e->flows, cut, NULL);
	assert_int_equal(e->last.bytes_in, 60010);
	assert_int_equal(e->last.bytes_out, 60010);
	assert_int_equal(engine_run(e, inside_same_port_refused, &(struct target){ FAR4, 81 }), ECONNREFUSED);
}

static void closed_port_outside_is_econnrefused_inside(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_send_errno, &(struct target){ FAR4, 81 }), ECONNREFUSED);
	assert_int_equal(engine_run(e, inside_send_errno, &(struct target){ FAR6, 81 }), ECONNREFUSED);
}

static void refusal_shows_at_once_and_is_judged_once(void **state)
{
	struct engine *e = *state;

	e->action = LAT_ACTION_DENY;
	assert_int_equal(engine_run(e, inside_refused_twice, &(struct target){ FAR4, 80 }), 0);
	assert_int_equal(e->judged, 1);
	assert_int_equal(engine_run(e, inside_refused_twice, &(struct target){ FAR6, 80 }), 0);
	assert_int_equal(e->judged, 2);
	assert_int_equal(e->closed, 2);
}

static void first_datagram_waits_for_a_socket(void **state)
{
	struct engine *e = *state;
	struct lat_flows_stats s;
	pid_t pid;

	e->hold_sockets = true;
	pid = trap_spawn(&e->trap, inside_sizes, &(struct target){ FAR4, 80 });
	do {
		engine_step(e, 50);
		lat_flows_get_stats(e->flows, &s);
	} while (!s.pending);
	assert_true(e->wanted > 0);
	e->hold_sockets = false;
	assert_int_equal(engine_wait(e, pid), 0);
}

/* Makes sockets inside as a sandbox without IPv6 has them. */
static int inside_give_ip4(void *arg)
{
	int fds[4], on = 1;

	for (size_t i = 0; i < LAT_ARRAY_SIZE(fds); i++) {
		fds[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		setsockopt(fds[i], SOL_IP, IP_TRANSPARENT, &on, sizeof(on));
	}
	return trap_pass(*(int *)arg, fds, LAT_ARRAY_SIZE(fds)) < 0;
}

static void sandbox_without_ipv6_is_served(void **state)
{
	struct engine *e = *state;
	int pair[2], fds[4];

	e->hold_sockets = true;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(engine_run(e, inside_give_ip4, &pair[1]), 0);
	assert_int_equal(trap_take(pair[0], fds, LAT_ARRAY_SIZE(fds)), 0);
	close(pair[0]);
	close(pair[1]);
	lat_flows_add_sockets(e->flows, fds, LAT_ARRAY_SIZE(fds));
	assert_int_equal(engine_run(e, inside_one, &(struct target){ FAR4, 80 }), 0);
}

static void waiting_without_sockets_ends(void **state)
{
	struct engine *e = *state;
	struct lat_flows_stats s;
	pid_t pid;

	e->hold_sockets = true;
	pid = trap_spawn(&e->trap, inside_send_only, &(struct target){ FAR4, 80 });
	assert_true(engine_until(e, &e->judged, 1));
	lat_flows_tick(e->flows, lat_now_ns() + 6 * LAT_NS_PER_SEC);
	lat_flows_get_stats(e->flows, &s);
	assert_int_equal(s.pending, 0);
	assert_int_equal(e->closed, 1);
	assert_int_equal(engine_wait(e, pid), 0);
}

static void serve_dns_port(int ready)
{
	int fd = engine_listen(53, SOCK_DGRAM);
	char buf[16];
	struct sockaddr_in6 from;
	socklen_t len = sizeof(from);
	ssize_t n;

	(void)!write(ready, "x", 1);
	while ((n = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len)) >= 0)
		sendto(fd, buf, (size_t)n, 0, (struct sockaddr *)&from, len);
}

static void answered_query_is_forgotten_sooner(void **state)
{
	struct engine *e = *state;
	struct lat_flows_stats s;

	e->other_server = engine_outside(serve_dns_port);
	assert_int_equal(engine_run(e, inside_one, &(struct target){ FAR4, 53 }), 0);
	lat_flows_tick(e->flows, lat_now_ns() + 29 * LAT_NS_PER_SEC);
	lat_flows_get_stats(e->flows, &s);
	assert_int_equal(s.live_udp, 1);
	lat_flows_tick(e->flows, lat_now_ns() + 31 * LAT_NS_PER_SEC);
	lat_flows_get_stats(e->flows, &s);
	assert_int_equal(s.live_udp, 0);
}

static void unreachable_place_is_judged_once(void **state)
{
	struct engine *e = *state;

	/* Told as a closed port: of an unreachable host a UDP socket is not told. */
	for (int i = 0; i < 3; i++) {
		assert_int_equal(engine_run(e, inside_refused_twice, &(struct target){ "198.51.100.1", 80 }), 0);
		assert_int_equal(e->judged, i + 1);
	}
}

static void swept_flow_is_forgotten(void **state)
{
	struct engine *e = *state;
	struct lat_flows_stats s;

	assert_int_equal(engine_run(e, inside_sizes, &(struct target){ FAR4, 80 }), 0);
	lat_flows_get_stats(e->flows, &s);
	assert_int_equal(s.live_udp, 1);
	assert_int_equal(lat_flows_sweep(e->flows, cut, NULL), 1);
	lat_flows_get_stats(e->flows, &s);
	assert_int_equal(s.live_udp, 0);
	assert_int_equal(e->closed, 1);
}

static void idle_flow_ends(void **state)
{
	struct engine *e = *state;
	struct lat_flows_stats s;

	assert_int_equal(engine_run(e, inside_sizes, &(struct target){ FAR4, 80 }), 0);
	lat_flows_tick(e->flows, lat_now_ns() + 119 * LAT_NS_PER_SEC);
	lat_flows_get_stats(e->flows, &s);
	assert_int_equal(s.live_udp, 1);
	lat_flows_tick(e->flows, lat_now_ns() + 121 * LAT_NS_PER_SEC);
	lat_flows_get_stats(e->flows, &s);
	assert_int_equal(s.live_udp, 0);
}

static void ping_works_without_ping_sockets_for_root(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_ping, &(struct target){ FAR4, 0 }), 0);
	assert_int_equal(engine_run(e, inside_ping, &(struct target){ FAR6, 0 }), 0);
	assert_int_equal(engine_run(e, inside_ping, &(struct target){ "198.51.100.1", 1 }), EHOSTUNREACH);
}

/* From here on (a new namespace allows ping sockets to nobody). */
static int allow_ping(void **state)
{
	trap_tool("echo 0 0 > /proc/sys/net/ipv4/ping_group_range");
	return engine_setup(state);
}

static void ping_is_answered_by_the_far_host(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_ping, &(struct target){ FAR4, 0 }), 0);
	assert_int_equal(e->judged_flow.proto, IPPROTO_ICMP);
	assert_int_equal(engine_run(e, inside_ping, &(struct target){ FAR6, 0 }), 0);
	assert_int_equal(e->judged_flow.proto, IPPROTO_ICMPV6);
	assert_int_equal(e->judged, 2);
}

static void refused_ping_is_prohibited(void **state)
{
	struct engine *e = *state;

	e->action = LAT_ACTION_DENY;
	assert_int_equal(engine_run(e, inside_ping, &(struct target){ FAR4, 0 }), EHOSTUNREACH);
	assert_int_equal(engine_run(e, inside_ping, &(struct target){ FAR6, 0 }), EACCES);
}

static void ping_to_nowhere_is_not_answered_by_ourselves(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_ping, &(struct target){ "192.0.2.1", 1 }), ENETUNREACH);
	assert_int_equal(engine_run(e, inside_ping, &(struct target){ "198.51.100.1", 1 }), EHOSTUNREACH);
}

#define T(name) cmocka_unit_test_setup_teardown(name, engine_setup, engine_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(datagrams_keep_their_boundaries),
		T(each_client_socket_is_a_flow_of_its_own),
		T(unconnected_socket_talks_to_two_places),
		T(new_socket_on_the_same_port_is_served),
		T(socket_of_any_address_on_the_same_port_is_served),
		T(closed_port_outside_is_econnrefused_inside),
		T(refusal_shows_at_once_and_is_judged_once),
		T(first_datagram_waits_for_a_socket),
		T(sandbox_without_ipv6_is_served),
		T(waiting_without_sockets_ends),
		T(answered_query_is_forgotten_sooner),
		T(unreachable_place_is_judged_once),
		T(swept_flow_is_forgotten),
		T(idle_flow_ends),
		T(ping_works_without_ping_sockets_for_root),
		cmocka_unit_test_setup_teardown(ping_is_answered_by_the_far_host, allow_ping, engine_teardown),
		T(refused_ping_is_prohibited),
		T(ping_to_nowhere_is_not_answered_by_ourselves),
	};

	outside_enter();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
