/* The byte relay of the flow engine, through a real trap: bulk, ends, resets, urgent data, back-pressure. */
#include "core/flows.h"
#include "base/clock.h"
#include "base/mem.h"
#include "support/dial.h"
#include "support/engine.h"
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

/* ---- inside ---- */

#define BULK (48 << 20)

static uint8_t pattern(uint64_t at)
{
	return (uint8_t)((at * 2654435761u) >> 13);
}

/* Sends BULK bytes in pieces of all sizes to the echo server and reads them back meanwhile; each must be in its place. */
static int inside_bulk(void *arg)
{
	static uint8_t out[300000], in[300000];
	int fd = target_connect(arg, SOCK_STREAM);
	uint64_t sent = 0, got = 0;
	unsigned random = 1;

	if (fd < 0)
		return errno;
	while (got < BULK) {
		struct pollfd p = { fd, (short)(POLLIN | (sent < BULK ? POLLOUT : 0)), 0 };

		if (poll(&p, 1, ENGINE_BOUND_MS) != 1)
			return 200;
		if (p.revents & POLLOUT) {
			size_t n, most = (random >> 20) % 3 ? 300 : sizeof(out);
			ssize_t w;

			random = random * 1103515245 + 12345;
			n = random % most + 1;
			if (n > BULK - sent)
				n = BULK - sent;
			for (size_t i = 0; i < n; i++)
				out[i] = pattern(sent + i);
			w = send(fd, out, n, MSG_DONTWAIT);
			if (w > 0)
				sent += (uint64_t)w;
		}
		if (p.revents & POLLIN) {
			ssize_t n = recv(fd, in, sizeof(in), MSG_DONTWAIT);

			if (n <= 0)
				return 201;
			for (ssize_t i = 0; i < n; i++)
				if (in[i] != pattern(got + (uint64_t)i))
					return 202;
			got += (uint64_t)n;
		}
	}
	return 0;
}

static bool send_all(int fd, size_t size)
{
	static const char zero[65536];

	while (size) {
		ssize_t n = send(fd, zero, size < sizeof(zero) ? size : sizeof(zero), MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		size -= (size_t)n;
	}
	return true;
}

/* Bytes until the end of the stream; -1 for an error. */
static ssize_t read_all(int fd)
{
	static char buf[65536];
	ssize_t total = 0, n;

	while ((n = recv(fd, buf, sizeof(buf), 0)) > 0)
		total += n;
	return n < 0 ? -1 : total;
}

#define UP (5 << 20)
#define DOWN (7 << 20)

/* Everything up, end of stream, and only then everything down. */
static int inside_half_close(void *arg)
{
	int fd = target_connect(arg, SOCK_STREAM);

	if (!send_all(fd, UP) || shutdown(fd, SHUT_WR) < 0)
		return 1;
	return read_all(fd) == DOWN ? 0 : 2;
}

static int inside_reset(void *arg)
{
	int fd = target_connect(arg, SOCK_STREAM);
	struct linger now = { 1, 0 };
	char byte;

	if (fd < 0 || send(fd, "x", 1, 0) != 1 || recv(fd, &byte, 1, 0) != 1)
		return 200;
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
	return 0;
}

/* "ab", urgent "!", "cd": the mark is behind "ab". */
static bool send_urgent(int fd)
{
	return send(fd, "ab", 2, 0) == 2 && send(fd, "!", 1, MSG_OOB) == 1 && send(fd, "cd", 2, 0) == 2;
}

static bool read_urgent(int fd)
{
	struct pollfd p = { fd, POLLPRI, 0 };
	char buf[8], byte;
	int at_mark = 0, got = 0;

	if (poll(&p, 1, ENGINE_BOUND_MS) != 1 || !(p.revents & POLLPRI))
		return false;
	while (!at_mark && got < 2) {
		ssize_t n = recv(fd, buf + got, sizeof(buf) - (size_t)got, 0);

		if (n <= 0)
			return false;
		got += (int)n;
		if (ioctl(fd, SIOCATMARK, &at_mark) < 0)
			return false;
	}
	if (!at_mark || got != 2 || recv(fd, &byte, 1, MSG_OOB) != 1 || byte != '!')
		return false;
	return recv(fd, buf, 2, MSG_WAITALL) == 2 && memcmp(buf, "cd", 2) == 0;
}

static int inside_urgent(void *arg)
{
	int fd = target_connect(arg, SOCK_STREAM);

	return !send_urgent(fd) ? 1 : read_urgent(fd) ? 0 : 2;
}

static int inside_banner(void *arg)
{
	int fd = target_connect(arg, SOCK_STREAM);
	char buf[8];

	return recv(fd, buf, 6, MSG_WAITALL) == 6 && memcmp(buf, "banner", 6) == 0 ? 0 : 1;
}

/* Ten connections to a server that speaks first; a delayed ACK anywhere would make each take 40 ms or more. */
static int inside_banners(void *arg)
{
	uint64_t start = lat_now_ns();

	for (int i = 0; i < 10; i++) {
		int fd = target_connect(arg, SOCK_STREAM);
		char buf[8];

		if (fd < 0 || recv(fd, buf, 6, MSG_WAITALL) != 6)
			return 1;
		close(fd);
	}
	return lat_now_ns() - start < 350 * LAT_NS_PER_MS ? 0 : 2;
}

/* Writes to a server that does not read: must stop, and what was taken must be bounded. */
static int inside_stuck(void *arg)
{
	static const char zero[65536];
	int fd = target_connect(arg, SOCK_STREAM);
	struct pollfd p = { fd, POLLOUT, 0 };
	size_t taken = 0;

	if (fd < 0)
		return 200;
	while (poll(&p, 1, 500) == 1) {
		ssize_t n = send(fd, zero, sizeof(zero), MSG_DONTWAIT);

		if (n < 0 && errno != EAGAIN)
			return 201;
		taken += n > 0 ? (size_t)n : 0;
		if (taken > (64u << 20))
			return 202;
	}
	/* Others are served meanwhile. */
	return target_echo(&(struct target){ FAR4, 80 });
}

static int inside_read(void *arg)
{
	int fd = target_connect(arg, SOCK_STREAM);

	if (fd < 0 || send(fd, "x", 1, 0) != 1)
		return 200;
	return read_all(fd) < 0 ? errno : 0;
}

/* One rude act of a client, chosen by the number. */
static void chaos_act(void *arg, unsigned act)
{
	static char buf[65536];
	struct linger now = { 1, 0 };
	int fd;

	if (act == 0) { /* gives up while connecting */
		struct sockaddr_storage to;
		socklen_t len = target_address(arg, &to);

		fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		connect(fd, (struct sockaddr *)&to, len);
		close(fd);
		return;
	}
	fd = target_connect(arg, SOCK_STREAM);
	if (fd < 0)
		return;
	switch (act) {
	case 1: /* says nothing */
		break;
	case 2: /* resets with answers unread */
		send_all(fd, 300000 % 70000);
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
		break;
	case 3: /* fills all buffers, reads nothing */
		while (send(fd, buf, sizeof(buf), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
			;
		break;
	case 4:
		shutdown(fd, SHUT_WR);
		read_all(fd);
		break;
	case 5:
		shutdown(fd, SHUT_RD);
		send_all(fd, 100000);
		break;
	case 6:
		send(fd, "u", 1, MSG_OOB | MSG_NOSIGNAL);
		break;
	default:
		send_all(fd, 1000);
		shutdown(fd, SHUT_WR);
		read_all(fd);
	}
	close(fd);
}

static int inside_chaos(void *arg)
{
	int status, bad = 0;

	for (unsigned i = 0; i < 8; i++)
		if (fork() == 0) {
			for (unsigned k = 0; k < 40; k++)
				chaos_act(arg, (i * 13 + k * 7) % 9);
			_exit(0);
		}
	while (wait(&status) > 0)
		bad += status != 0;
	return bad ? bad : target_echo(arg);
}

/* ---- outside, port 90: one way to behave each ---- */

static void serve_half_close(int ready)
{
	int fd = engine_serve_one(ready);

	if (read_all(fd) == UP)
		send_all(fd, DOWN);
}

static void serve_reset(int ready)
{
	int fd = engine_serve_one(ready);
	struct linger now = { 1, 0 };
	char byte;

	(void)!read(fd, &byte, 1);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
	pause();
}

/* Ends with status 0 when the program's reset arrived. */
static void serve_be_reset(int ready)
{
	int fd = engine_serve_one(ready);
	char byte;

	if (read(fd, &byte, 1) != 1 || write(fd, "y", 1) != 1)
		_exit(1);
	_exit(read(fd, &byte, 1) < 0 && errno == ECONNRESET ? 0 : 2);
}

static void serve_urgent(int ready)
{
	int fd = engine_serve_one(ready);

	if (read_urgent(fd) && send_urgent(fd))
		read_all(fd);
}

static void serve_banner(int ready)
{
	int fd = engine_serve_one(ready);

	if (send(fd, "banner", 6, 0) == 6)
		read_all(fd);
}

/* ---- tests ---- */

static int run_with_server(struct engine *e, void (*serve)(int), int (*inside)(void *))
{
	e->other_server = engine_outside(serve);
	return engine_run(e, inside, &(struct target){ FAR4, 90 });
}

static void bulk_arrives_whole_and_in_order(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_bulk, &(struct target){ FAR4, 80 }), 0);
	assert_true(engine_settle(e));
	assert_int_equal(e->last.bytes_out, BULK);
	assert_int_equal(e->last.bytes_in, BULK);
}

static void half_close_is_passed_on(void **state)
{
	struct engine *e = *state;

	assert_int_equal(run_with_server(e, serve_half_close, inside_half_close), 0);
	assert_true(engine_settle(e));
	assert_int_equal(e->last.bytes_out, UP);
	assert_int_equal(e->last.bytes_in, DOWN);
}

static void reset_of_the_server_reaches_the_program(void **state)
{
	assert_int_equal(run_with_server(*state, serve_reset, inside_read), ECONNRESET);
	assert_true(engine_settle(*state));
}

static void reset_of_the_program_reaches_the_server(void **state)
{
	struct engine *e = *state;

	assert_int_equal(run_with_server(e, serve_be_reset, inside_reset), 0);
	assert_int_equal(engine_wait(e, e->other_server), 0);
	e->other_server = 0;
	assert_true(engine_settle(e));
}

static void urgent_data_keeps_its_place(void **state)
{
	assert_int_equal(run_with_server(*state, serve_urgent, inside_urgent), 0);
	assert_true(engine_settle(*state));
}

static void server_may_speak_first(void **state)
{
	assert_int_equal(run_with_server(*state, serve_banner, inside_banner), 0);
}

static void serve_host_banners(int ready)
{
	int l = engine_listen(7777, SOCK_STREAM), fd;

	(void)!write(ready, "x", 1);
	while ((fd = accept4(l, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		send(fd, "banner", 6, MSG_NOSIGNAL);
		close(fd);
	}
}

static void host_service_that_speaks_first_does_so_at_once(void **state)
{
	struct engine *e = *state;

	e->other_server = engine_outside(serve_host_banners);
	assert_int_equal(engine_run(e, inside_banners, &(struct target){ "127.0.0.1", 7777 }), 0);
}

static void reader_that_stopped_stops_its_writer_only(void **state)
{
	assert_int_equal(run_with_server(*state, engine_serve_nothing, inside_stuck), 0);
}

static void rude_clients_leave_nothing(void **state)
{
	struct engine *e = *state;

	assert_int_equal(engine_run(e, inside_chaos, &(struct target){ FAR4, 80 }), 0);
	lat_flows_tick(e->flows, lat_now_ns() + 20 * LAT_NS_PER_SEC); /* those that gave up */
	assert_true(engine_settle(e));
	assert_int_equal(e->closed, e->judged);
}

#define T(name) cmocka_unit_test_setup_teardown(name, engine_setup, engine_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(bulk_arrives_whole_and_in_order),
		T(half_close_is_passed_on),
		T(reset_of_the_server_reaches_the_program),
		T(reset_of_the_program_reaches_the_server),
		T(urgent_data_keeps_its_place),
		T(server_may_speak_first),
		T(host_service_that_speaks_first_does_so_at_once),
		T(reader_that_stopped_stops_its_writer_only),
		T(rude_clients_leave_nothing),
	};

	outside_enter();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
