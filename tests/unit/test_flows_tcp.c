/* The flow engine on TCP, through a real trap: a program inside, servers outside, this process in between. */
#include "core/flows.h"
#include "base/clock.h"
#include "base/mem.h"
#include "launcher/launcher.h"
#include "support/dial.h"
#include "support/engine.h"
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

/* ---- inside ---- */

static int inside_connect(void *arg)
{
	struct target *t = arg;

	return target_connect(t, SOCK_STREAM) < 0 ? errno : 0;
}

static int inside_read(void *arg)
{
	int fd = target_connect(arg, SOCK_STREAM);
	char byte;

	/* Cut early, the errno shows earlier. */
	if (fd < 0 || send(fd, "x", 1, MSG_NOSIGNAL) != 1)
		return errno;
	return recv(fd, &byte, 1, 0) < 0 ? errno : 0;
}

#define MANY 1500

static int inside_many(void *arg)
{
	static int fds[MANY];
	struct rlimit limit;
	char byte;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	for (int i = 0; i < MANY; i++) {
		fds[i] = target_connect(arg, SOCK_STREAM);
		if (fds[i] < 0)
			return errno;
	}
	for (int i = 0; i < MANY; i++)
		if (send(fds[i], "m", 1, 0) != 1)
			return 200;
	for (int i = 0; i < MANY; i++)
		if (recv(fds[i], &byte, 1, 0) != 1)
			return 201;
	return 0;
}

/* More connections than the engine has descriptors for: some are refused, none hangs, and when the first are closed new ones
 * pass. */
static int inside_exhaust(void *arg)
{
	int fds[64], open = 0, refused = 0;

	for (int i = 0; i < 64; i++) {
		fds[open] = target_connect(arg, SOCK_STREAM);
		if (fds[open] >= 0)
			open++;
		else
			refused++;
	}
	if (!open || !refused)
		return 200;
	while (open)
		close(fds[--open]);
	for (uint64_t until = lat_now_ns() + ENGINE_BOUND_MS / 2 * LAT_NS_PER_MS; lat_now_ns() < until;)
		if (target_echo(arg) == 0) /* the ends have to come back from the server first */
			return 0;
	return 201;
}

/* A connect that stays pending (its server's backlog is full), SYN sent again meanwhile; others are served. */
static int inside_pending(void *arg)
{
	struct target *t = arg;
	struct sockaddr_storage to;
	socklen_t len = target_address(t, &to);
	int fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct pollfd p = { fd, POLLOUT, 0 };

	if (connect(fd, (struct sockaddr *)&to, len) == 0 || errno != EINPROGRESS)
		return 200;
	if (poll(&p, 1, 1300) != 0)
		return 201;
	return target_echo(&(struct target){ FAR4, 80 });
}

/* Gives a first attempt up and tries again from the same port. */
static int inside_same_port(void *arg)
{
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons(5151), .sin_addr.s_addr = inet_addr("192.0.0.2") };
	struct sockaddr_storage to;
	socklen_t len = target_address(arg, &to);
	char byte;
	int fd;

	for (int i = 0; i < 2; i++) {
		struct timeval bound = { .tv_sec = 15 };

		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (i == 0 ? SOCK_NONBLOCK : 0), 0);
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof(bound));
		if (bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0)
			return 200;
		if (connect(fd, (struct sockaddr *)&to, len) < 0 && (i || errno != EINPROGRESS))
			return errno;
		if (i == 0)
			close(fd);
	}
	return send(fd, "x", 1, 0) == 1 && recv(fd, &byte, 1, 0) == 1 ? 0 : 201;
}

/* SYNs that no stack would send. */
static int inside_garbage(void *arg)
{
	uint8_t packet[40] = { 0x45, 0, 0, 40, 0, 0, 0, 0, 64, IPPROTO_TCP, 0, 0, 192, 0, 0, 2, 203, 0, 113, 9, 0x10, 0, 0, 80,
		[32] = 0x10, [33] = 0x02 }; /* data offset 1 */
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = inet_addr(FAR4) };
	int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);

	for (int i = 0; i < 3; i++)
		if (sendto(fd, packet, sizeof(packet), 0, (struct sockaddr *)&to, sizeof(to)) != sizeof(packet))
			return errno;
	return target_echo(arg);
}

static int marked(const struct target *t, uint16_t port)
{
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = inet_addr(LAT_TRAP_ADDR4) };
	struct sockaddr_storage to;
	socklen_t len = target_address(t, &to);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), mark = LAT_MARK_JUDGED;

	if (setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0 || bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0 ||
	    connect(fd, (struct sockaddr *)&to, len) < 0)
		_exit(210);
	return fd;
}

static int inside_marked(void *arg)
{
	char byte;
	int fd = marked(arg, 5151);

	return send(fd, "x", 1, MSG_NOSIGNAL) == 1 && recv(fd, &byte, 1, 0) == 1 ? 0 : errno;
}

/* As inside_marked, but the flow is another one's. */
static int inside_marked_elsewhere(void *arg)
{
	char byte;

	return recv(marked(arg, 5152), &byte, 1, 0) < 0 ? errno : 0;
}

/* ---- outside, port 90: one way to behave each ---- */

/* A listener whose backlog is full: SYNs are not answered. */
static void serve_full_backlog(int ready)
{
	struct sockaddr_in6 self = { .sin6_family = AF_INET6, .sin6_port = htons(90), .sin6_addr = in6addr_loopback };
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(90) };
	int l = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (bind(l, (struct sockaddr *)&any, sizeof(any)) < 0 || listen(l, 0) < 0)
		_exit(1);
	for (int i = 0; i < 4; i++) {
		int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

		connect(fd, (struct sockaddr *)&self, sizeof(self));
	}
	(void)!write(ready, "x", 1);
	pause();
}

/* ---- tests ---- */

static void allowed_flow_reaches_its_server(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, target_echo, &(struct target){ FAR4, 80 }), 0);
	assert_int_equal(engine_run(e, target_echo, &(struct target){ FAR6, 80 }), 0);
	engine_settle(e);
	assert_int_equal(e->judged, 2);
	assert_int_equal(e->closed, 2);
	assert_int_equal(e->last.bytes_out, 5);
	assert_int_equal(e->last.bytes_in, 5);
	assert_int_equal(e->last.flow.dport, 80);
}

static void refusal_shows_the_errno_of_its_verdict(void **state)
{
	struct engine *e = *state;
	static const struct { int verdict, seen4, seen6; } cases[] = {
		{ 0, ECONNREFUSED, ECONNREFUSED },
		{ EHOSTUNREACH, EHOSTUNREACH, EHOSTUNREACH },
		{ ENETUNREACH, ENETUNREACH, ENETUNREACH },
		{ EACCES, EHOSTUNREACH, EACCES },
	};

	e->action = LAT_ACTION_DENY;
	for (size_t i = 0; i < LAT_ARRAY_SIZE(cases); i++) {
		e->err = (uint16_t)cases[i].verdict;
		assert_int_equal(engine_run(e, inside_connect, &(struct target){ FAR4, 80 }), cases[i].seen4);
		assert_int_equal(engine_run(e, inside_connect, &(struct target){ FAR6, 80 }), cases[i].seen6);
	}
	assert_int_equal(e->closed, e->judged);
}

static void failed_dial_shows_the_errno_of_the_network(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_connect, &(struct target){ FAR4, 81 }), ECONNREFUSED);
	assert_int_equal(e->dial_err, ECONNREFUSED);
	assert_int_equal(engine_run(e, inside_connect, &(struct target){ "198.51.100.1", 80 }), EHOSTUNREACH);
	assert_int_equal(engine_run(e, inside_connect, &(struct target){ "192.0.2.1", 80 }), ENETUNREACH);
	assert_int_equal(engine_run(e, inside_connect, &(struct target){ "2001:db8:1::1", 80 }), ENETUNREACH);
	assert_int_equal(e->closed, e->judged);
}

static int run_with_server(struct engine *e, void (*serve)(int), int (*inside)(void *))
{
	e->other_server = engine_outside(serve);
	return engine_run(e, inside, &(struct target){ FAR4, 90 });
}

static void many_flows_at_once(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_many, &(struct target){ FAR4, 80 }), 0);
	assert_int_equal(e->judged, MANY);
	assert_true(engine_settle(e));
	assert_int_equal(e->closed, MANY);
}

static void no_descriptor_is_a_refusal_and_passes(void **state)
{
	struct engine *e = *state;
	struct rlimit limit, low;
	struct lat_flows_stats s;
	int probe = dup(0);
	pid_t pid;

	close(probe);
	pid = trap_spawn(&e->trap, inside_exhaust, &(struct target){ FAR4, 80 });
	getrlimit(RLIMIT_NOFILE, &limit);
	low = (struct rlimit){ (rlim_t)probe + 41, limit.rlim_max };
	setrlimit(RLIMIT_NOFILE, &low);
	assert_int_equal(engine_wait(e, pid), 0);
	setrlimit(RLIMIT_NOFILE, &limit);
	lat_flows_get_stats(e->flows, &s);
	assert_true(s.fd_full > 0);
	assert_true(engine_settle(e));
	assert_int_equal(e->closed, e->judged);
}

/* Keeps two flows open and tries a third; then one is closed and there is room. */
static int inside_three(void *arg)
{
	int a = target_connect(arg, SOCK_STREAM), b = target_connect(arg, SOCK_STREAM);
	struct linger now = { 1, 0 };

	if (a < 0 || b < 0)
		return 200;
	if (target_connect(arg, SOCK_STREAM) >= 0 || errno != ECONNREFUSED)
		return 201;
	setsockopt(a, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(a);
	for (uint64_t until = lat_now_ns() + ENGINE_BOUND_MS / 2 * LAT_NS_PER_MS; lat_now_ns() < until;)
		if (target_connect(arg, SOCK_STREAM) >= 0) /* the SYN may overtake the reset */
			return 0;
	return 202;
}

static void full_table_refuses_and_recovers(void **state)
{
	struct engine *e = *state;
	struct lat_flows_stats s;

	lat_flows_free(e->flows);
	e->flows = NULL;
	e->options.max_flows = 2;
	assert_int_equal(lat_flows_new(&e->options, &e->flows), 0);
	assert_int_equal(engine_run(e, inside_three, &(struct target){ FAR4, 80 }), 0);
	lat_flows_get_stats(e->flows, &s);
	assert_true(s.table_full > 0);
	assert_int_equal(e->judged, 3); /* only what has a place is judged */
}

/* The listener is given a connection for which no packet was ever judged. */
static void connection_that_nobody_judged_is_reset(void **state)
{
	struct engine *e = *state;
	int listener = engine_listen(91, SOCK_STREAM), fd;
	struct pollfd p;
	char byte;

	fcntl(listener, F_SETFL, O_NONBLOCK);
	lat_flows_free(e->flows);
	e->flows = NULL;
	e->options.listener = listener;
	assert_int_equal(lat_flows_new(&e->options, &e->flows), 0);
	fd = target_connect(&(struct target){ FAR4, 91 }, SOCK_STREAM);
	assert_true(fd >= 0);
	p = (struct pollfd){ fd, POLLIN, 0 };
	engine_step(e, ENGINE_BOUND_MS);
	assert_int_equal(poll(&p, 1, ENGINE_BOUND_MS), 1);
	assert_int_equal(recv(fd, &byte, 1, 0), -1);
	assert_int_equal(errno, ECONNRESET);
	assert_int_equal(e->judged + e->closed, 0);
	close(fd);
	lat_flows_free(e->flows);
	e->flows = NULL;
	close(listener);
}

static void asked_flow_waits_for_its_answer_alone(void **state)
{
	struct engine *e = *state;
	struct lat_verdict allow = { .action = LAT_ACTION_ALLOW }, ask = { .action = LAT_ACTION_ASK };
	pid_t pid;

	e->ask_port = 80;
	pid = trap_spawn(&e->trap, target_echo, &(struct target){ FAR4, 80 });
	assert_true(engine_until(e, &e->asked, 1));
	e->ask_port = 0;
	assert_int_equal(engine_run(e, target_echo, &(struct target){ FAR4, 80 }), 0);
	lat_flows_answer(e->flows, e->asked_id + 1, &allow);
	lat_flows_answer(e->flows, ~0ull, &allow);
	lat_flows_answer(e->flows, e->asked_id, &allow);
	assert_int_equal(engine_wait(e, pid), 0);
	lat_flows_answer(e->flows, e->asked_id, &allow);

	e->ask_port = 80;
	pid = trap_spawn(&e->trap, inside_connect, &(struct target){ FAR4, 80 });
	assert_true(engine_until(e, &e->asked, 2));
	lat_flows_answer(e->flows, e->asked_id, &ask);
	assert_int_equal(engine_wait(e, pid), ECONNREFUSED);
}

static void slow_dial_delays_nobody_and_is_judged_once(void **state)
{
	struct engine *e = *state;

	assert_int_equal(run_with_server(e, serve_full_backlog, inside_pending), 0);
	assert_int_equal(e->judged, 2);
}

static void flow_of_a_program_that_gave_up_ends(void **state)
{
	struct engine *e = *state;
	struct lat_flows_stats s;

	assert_int_equal(run_with_server(e, serve_full_backlog, inside_pending), 0); /* about 1.3 s of asking */
	lat_flows_get_stats(e->flows, &s);
	assert_int_equal(s.pending, 1);
	lat_flows_tick(e->flows, lat_now_ns() + 8 * LAT_NS_PER_SEC);
	lat_flows_get_stats(e->flows, &s);
	assert_int_equal(s.pending, 0);
	assert_int_equal(e->closed, 2);
}

static void second_attempt_from_the_same_port_is_served(void **state)
{
	struct engine *e = *state;
	struct lat_verdict allow = { .action = LAT_ACTION_ALLOW };
	struct lat_flows_stats s;
	pid_t pid;

	e->ask_port = 80;
	pid = trap_spawn(&e->trap, inside_same_port, &(struct target){ FAR4, 80 });
	do {
		engine_step(e, 50);
		lat_flows_get_stats(e->flows, &s);
	} while (s.queued < 2);
	lat_flows_answer(e->flows, e->asked_id, &allow);
	assert_int_equal(engine_wait(e, pid), 0);
	assert_int_equal(e->judged, 1);
}

static int64_t dial(struct engine *e, const char *to, uint16_t port, bool *ready)
{
	struct lat_flow flow = { .proto = IPPROTO_TCP, .dir = LAT_DIR_OUT, .dport = port };
	struct lat_verdict allow = { .action = LAT_ACTION_ALLOW };

	*ready = false;
	lat_addr_parse(to, &flow.remote);
	return lat_flows_dial(e->flows, &flow, &allow, NULL, ready);
}

static void flow_that_is_dialled_first_needs_no_packet(void **state)
{
	struct engine *e = *state;
	struct lat_flows_stats s;
	struct lat_addr own;
	bool ready;
	int64_t id = dial(e, FAR4, 80, &ready);

	assert_true(id > 0);
	lat_addr_parse(LAT_TRAP_ADDR4, &own);
	lat_flows_connected(e->flows, (uint64_t)id, &own, 5151);
	assert_int_equal(engine_run(e, inside_marked, &(struct target){ FAR4, 80 }), 0);
	engine_settle(e);
	lat_flows_get_stats(e->flows, &s);
	assert_int_equal(s.relayed, 1);
	assert_int_equal(e->judged, 0);
	assert_int_equal(e->closed, 1);
	assert_int_equal(e->last.flow.sport, 5151);
	if (ready)
		assert_int_equal(s.queued, 0);
}

static void mark_passes_nothing_but_the_dialled_flow(void **state)
{
	struct engine *e = *state;
	struct lat_flows_stats s;
	struct lat_addr own;
	bool ready;
	int64_t id;

	assert_int_equal(engine_run(e, inside_marked_elsewhere, &(struct target){ FAR4, 80 }), ECONNRESET);
	id = dial(e, FAR4, 80, &ready);
	lat_addr_parse(LAT_TRAP_ADDR4, &own);
	lat_flows_connected(e->flows, (uint64_t)id, &own, 5151);
	assert_int_equal(engine_run(e, inside_marked_elsewhere, &(struct target){ FAR4, 80 }), ECONNRESET); /* another port */
	lat_flows_get_stats(e->flows, &s);
	assert_int_equal(s.relayed, 0);
}

static void dial_that_came_to_nothing_is_ended_once(void **state)
{
	struct engine *e = *state;
	bool ready;
	int64_t id = dial(e, FAR4, 80, &ready);

	assert_true(id > 0);
	lat_flows_connected(e->flows, (uint64_t)id, NULL, 0);
	lat_flows_connected(e->flows, (uint64_t)id, NULL, 0);
	assert_int_equal(e->closed, 1);
	assert_int_equal(dial(e, "192.0.2.1", 80, &ready), -ENETUNREACH);
	assert_int_equal(dial(e, "224.0.0.1", 80, &ready), -ENETUNREACH);
	assert_int_equal(e->closed, 3);
}

static bool cut(void *ctx, struct lat_flow_info *info)
{
	return info->flow.dport != 90;
}

static void swept_flow_is_reset(void **state)
{
	struct engine *e = *state;
	struct lat_flows_stats s;
	pid_t pid;

	e->other_server = engine_outside(engine_serve_nothing);
	pid = trap_spawn(&e->trap, inside_read, &(struct target){ FAR4, 90 });
	do {
		engine_step(e, 50);
		lat_flows_get_stats(e->flows, &s);
	} while (!s.live_tcp);
	assert_int_equal(lat_flows_sweep(e->flows, cut, NULL), 1);
	assert_int_equal(engine_wait(e, pid), ECONNRESET);
	assert_int_equal(e->closed, 1);
}

static void garbage_is_counted_and_dropped(void **state)
{
	struct engine *e = *state;
	struct lat_flows_stats s;

	assert_int_equal(engine_run(e, inside_garbage, &(struct target){ FAR4, 80 }), 0);
	lat_flows_get_stats(e->flows, &s);
	assert_int_equal(s.bad_packets, 3);
	assert_int_equal(e->judged, 1);
}

static void host_port_reaches_the_host_itself(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_connect, &(struct target){ "127.0.0.1", 7777 }), ECONNREFUSED);
	assert_int_equal(engine_run(e, inside_connect, &(struct target){ "::1", 7777 }), ECONNREFUSED);
	assert_int_equal(e->dial_err, ECONNREFUSED);
	assert_int_equal(e->judged, 2);
}

static void places_of_nobody_are_never_dialled(void **state)
{
	static const char *const places[] = { "224.0.0.1", "255.255.255.255", "0.1.2.3" };
	struct engine *e = *state;

	for (size_t i = 0; i < LAT_ARRAY_SIZE(places); i++)
		assert_int_not_equal(engine_run(e, inside_connect, &(struct target){ places[i], 80 }), 0);
	assert_int_equal(e->closed, e->judged);
}

#define T(name) cmocka_unit_test_setup_teardown(name, engine_setup, engine_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(allowed_flow_reaches_its_server),
		T(refusal_shows_the_errno_of_its_verdict),
		T(failed_dial_shows_the_errno_of_the_network),
		T(many_flows_at_once),
		T(no_descriptor_is_a_refusal_and_passes),
		T(full_table_refuses_and_recovers),
		T(connection_that_nobody_judged_is_reset),
		T(asked_flow_waits_for_its_answer_alone),
		T(slow_dial_delays_nobody_and_is_judged_once),
		T(flow_of_a_program_that_gave_up_ends),
		T(second_attempt_from_the_same_port_is_served),
		T(swept_flow_is_reset),
		T(garbage_is_counted_and_dropped),
		T(host_port_reaches_the_host_itself),
		T(places_of_nobody_are_never_dialled),
		T(flow_that_is_dialled_first_needs_no_packet),
		T(mark_passes_nothing_but_the_dialled_flow),
		T(dial_that_came_to_nothing_is_ended_once),
	};

	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max < 16384 ? limit.rlim_max : 16384;
	setrlimit(RLIMIT_NOFILE, &limit);
	outside_enter();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
