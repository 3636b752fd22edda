/* The sandbox's DNS server over TCP: pipelines, pieces, limits, connections that end. */
#include "support/dns_fixture.h"
#include <sys/resource.h>

static void tcp_takes_pipelined_and_split_queries(void **state)
{
	uint8_t buf[1024];
	int fd = client(SOCK_STREAM);
	size_t n = add_stream(buf, 1, "many.example");
	unsigned seen = 0;

	n += add_stream(buf + n, 2, "secret.example");
	n += add_stream(buf + n, 3, "chain.example");
	for (size_t i = 0; i < n; i++) { /* byte by byte */
		assert_int_equal(send(fd, buf + i, 1, 0), 1);
		uv_run(&loop, UV_RUN_NOWAIT);
	}
	for (int i = 0; i < 3; i++) {
		take_stream(fd);
		seen |= 1u << ns_msg_id(parsed);
		if (ns_msg_id(parsed) == 1)
			assert_int_equal(answers(), 64);
		if (ns_msg_id(parsed) == 2)
			assert_int_equal(rcode(), LAT_DNS_REFUSED);
	}
	assert_int_equal(seen, 14);
	assert_true(saw.tcp);
	close(fd);
}

static void tcp_answers_what_was_asked_before_the_asker_closed_its_side(void **state)
{
	uint8_t buf[64 * 40];
	int fd = client(SOCK_STREAM);
	size_t n = 0;

	for (uint16_t i = 0; i < 50; i++) /* more than may be open at once */
		n += add_stream(buf + n, i, "backwards.example");
	assert_int_equal(send(fd, buf, n, 0), n);
	shutdown(fd, SHUT_WR);
	for (int i = 0; i < 50; i++)
		take_stream(fd);
	await(fd);
	assert_int_equal(recv(fd, buf, 1, 0), 0);
	close(fd);
}

static void tcp_limit_of_open_queries_holds_without_a_stall(void **state)
{
	uint8_t buf[64 * 40];
	int fd = client(SOCK_STREAM);
	size_t n = 0;

	memset(&saw, 0, sizeof(saw));
	for (uint16_t i = 0; i < 40; i++)
		n += add_stream(buf + n, i, "wait.example");
	assert_int_equal(send(fd, buf, n, 0), n);
	while (saw.judged < 32)
		uv_run(&loop, UV_RUN_ONCE);
	for (int i = 0; i < 20; i++)
		uv_run(&loop, UV_RUN_NOWAIT);
	assert_int_equal(saw.judged, 32);
	for (uint64_t id = saw.waiting - 31, i = 0; i < 40; i++)
		lat_dns_answer(dns, id + i, false, false);
	for (int i = 0; i < 40; i++)
		take_stream(fd);
	close(fd);
}

static void tcp_garbage_closes_the_connection(void **state)
{
	static const uint8_t long_one[] = {0xff, 0xff, 1, 2, 3};
	static const uint8_t none[] = {0, 0};
	static const uint8_t an_answer[] = {0, 12, 9, 9, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0};
	const struct {
		const uint8_t *b;
		size_t n;
	} bad[] = {{long_one, sizeof(long_one)}, {none, 2}, {an_answer, sizeof(an_answer)}};

	for (size_t i = 0; i < 3; i++) {
		int fd = client(SOCK_STREAM);

		send(fd, bad[i].b, bad[i].n, 0);
		await(fd);
		assert_true(recv(fd, reply, 1, 0) <= 0);
		close(fd);
	}
}

static void tcp_idle_connections_end_and_make_room(void **state)
{
	int fds[100];
	uint8_t buf[600];
	int fd;

	for (int i = 0; i < 100; i++) {
		fds[i] = client(SOCK_STREAM);
		uv_run(&loop, UV_RUN_NOWAIT);
	}
	send(fds[99], buf, add_stream(buf, 9, "plain.example"), 0); /* the last comer is served */
	take_stream(fds[99]);
	await(fds[0]); /* the first, quiet, had to go */
	assert_int_equal(recv(fds[0], buf, 1, 0), 0);
	lat_dns_tick(dns, lat_now_ns() + 60 * LAT_NS_PER_SEC);
	await(fds[99]);
	assert_int_equal(recv(fds[99], buf, 1, 0), 0);
	for (int i = 0; i < 100; i++)
		close(fds[i]);
	fd = client(SOCK_STREAM); /* goes away with a question open: nothing is pinned for it */
	memset(&saw, 0, sizeof(saw));
	send(fd, buf, add_stream(buf, 9, "plain.wait.example"), 0);
	while (!saw.waiting)
		uv_run(&loop, UV_RUN_ONCE);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
	close(fd);
	uv_run(&loop, UV_RUN_ONCE);
	lat_dns_answer(dns, saw.waiting, true, false);
	while (!saw.answered)
		uv_run(&loop, UV_RUN_ONCE);
	assert_int_equal(saw.pins, 0);
}

static void tcp_does_not_spin_when_descriptors_run_out(void **state)
{
	struct rlimit had, none;
	uint8_t buf[600];
	int fd = client(SOCK_STREAM);
	struct pollfd p = {lat_poller_fd(poller), POLLIN, 0};

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &had), 0);
	none = had;
	none.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(poll(&p, 1, 1000), 1);
	uv_run(&loop, UV_RUN_NOWAIT);
	assert_int_equal(poll(&p, 1, 0), 0); /* not ready again at once */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &had), 0);
	lat_dns_tick(dns, lat_now_ns());
	send(fd, buf, add_stream(buf, 9, "plain.example"), 0);
	take_stream(fd);
	assert_int_equal(answers(), 1);
	close(fd);
}

static int tests(void)
{
	const struct CMUnitTest list[] = {
		cmocka_unit_test(tcp_takes_pipelined_and_split_queries),
		cmocka_unit_test(tcp_answers_what_was_asked_before_the_asker_closed_its_side),
		cmocka_unit_test(tcp_limit_of_open_queries_holds_without_a_stall),
		cmocka_unit_test(tcp_garbage_closes_the_connection),
		cmocka_unit_test(tcp_does_not_spin_when_descriptors_run_out),
		cmocka_unit_test(tcp_idle_connections_end_and_make_room),
	};

	return cmocka_run_group_tests(list, NULL, NULL);
}

int main(void)
{
	return with_server(tests);
}
