/* A flow engine over a trap (trap.h), with a judge that says what the test sets, an echo server outside on port 80, and a
 * loop that runs until a program inside has ended. No sleeping: it waits for events, with a bound. */
#ifndef TESTS_SUPPORT_ENGINE_H
#define TESTS_SUPPORT_ENGINE_H
#include "base/clock.h"
#include "core/flows.h"
#include "trap.h"
#include <dirent.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#define ENGINE_BOUND_MS 20000

struct engine {
	struct trap trap;
	struct lat_poller *poller;
	struct lat_flows *flows;
	struct lat_flows_hooks hooks;
	struct lat_flows_options options;
	pid_t server, other_server;
	struct lat_poll_item exit_item;
	/* what the judge says */
	uint8_t action;
	uint16_t err;
	uint16_t ask_port; /* flows to it are asked */
	uint64_t asked_id;
	/* what was seen */
	unsigned judged, closed, wanted, given, asked;
	bool hold_sockets; /* wanted ones are not given */
	int dial_err;
	struct lat_flow judged_flow;
	struct lat_flow_info last;
	int fds; /* open before */
};

static int engine_count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static int engine_judge(void *ctx, uint64_t id, const struct lat_flow *flow, struct lat_verdict *v, void **user)
{
	struct engine *e = ctx;

	e->judged++;
	e->judged_flow = *flow;
	if (e->ask_port && flow->dport == e->ask_port) {
		e->asked_id = id;
		e->asked++;
		return 1;
	}
	*v = (struct lat_verdict){ .action = e->action, .err = e->err, .where = "test" };
	*user = e;
	return 0;
}

static void engine_dial_failed(void *ctx, const struct lat_flow_info *info, int err)
{
	((struct engine *)ctx)->dial_err = err;
}

static void engine_closed(void *ctx, const struct lat_flow_info *info)
{
	struct engine *e = ctx;

	e->closed++;
	e->last = *info;
}

static void engine_want(void *ctx, unsigned count)
{
	((struct engine *)ctx)->wanted += count;
}

/* Forks a process outside and waits until it says by a byte that it is ready. */
static pid_t engine_outside(void (*serve)(int ready))
{
	int ready[2];
	pid_t pid;
	char byte;

	if (pipe2(ready, O_CLOEXEC) < 0)
		return -1;
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ready[0]);
		serve(ready[1]);
		_exit(0);
	}
	close(ready[1]);
	(void)!read(ready[0], &byte, 1);
	close(ready[0]);
	return pid;
}

static int engine_listen(int port, int type)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
	int fd = socket(AF_INET6, type | SOCK_CLOEXEC, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0 || (type == SOCK_STREAM && listen(fd, 4096) < 0))
		_exit(98);
	return fd;
}

/* TCP and UDP echo on port 80; end of stream is answered by end of stream. */
static void engine_echo(int ready)
{
	static char buf[1 << 17];
	int ep = epoll_create1(0), tcp = engine_listen(80, SOCK_STREAM), udp = engine_listen(80, SOCK_DGRAM);
	struct epoll_event ev = { .events = EPOLLIN, .data.fd = tcp }, got[64];

	epoll_ctl(ep, EPOLL_CTL_ADD, tcp, &ev);
	ev.data.fd = udp;
	epoll_ctl(ep, EPOLL_CTL_ADD, udp, &ev);
	(void)!write(ready, "x", 1);
	for (;;) {
		int n = epoll_wait(ep, got, 64, -1);

		for (int i = 0; i < n; i++) {
			int fd = got[i].data.fd;
			struct sockaddr_in6 from;
			socklen_t len = sizeof(from);
			ssize_t r;

			if (fd == tcp) {
				ev.data.fd = accept4(tcp, NULL, NULL, SOCK_CLOEXEC);
				epoll_ctl(ep, EPOLL_CTL_ADD, ev.data.fd, &ev);
			} else if (fd == udp) {
				r = recvfrom(udp, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);
				if (r >= 0)
					sendto(udp, buf, (size_t)r, 0, (struct sockaddr *)&from, len);
			} else {
				r = read(fd, buf, sizeof(buf));
				if (r <= 0 || send(fd, buf, (size_t)r, MSG_NOSIGNAL) != r)
					close(fd);
			}
		}
	}
}

/* A server on port 90 that the test writes: its first connection. */
__attribute__((unused)) static int engine_serve_one(int ready)
{
	int l = engine_listen(90, SOCK_STREAM);

	(void)!write(ready, "x", 1);
	return accept4(l, NULL, NULL, SOCK_CLOEXEC);
}

/* One that never reads. */
__attribute__((unused)) static void engine_serve_nothing(int ready)
{
	if (engine_serve_one(ready) >= 0)
		pause();
}

static void engine_step(struct engine *e, int timeout_ms)
{
	lat_poller_dispatch(e->poller, 64, timeout_ms);
	lat_flows_tick(e->flows, lat_now_ns());
	if (e->wanted && !e->hold_sockets && e->given < TRAP_POOL) {
		lat_flows_add_sockets(e->flows, e->trap.pool + e->given, 8);
		e->given += 8;
		e->wanted = 0;
	}
}

static void engine_exit_ready(struct lat_poll_item *item, uint32_t events)
{
}

/* Runs the engine until the process has ended. Its exit status, or -1 when the bound is over. */
__attribute__((unused)) static int engine_wait(struct engine *e, pid_t pid)
{
	uint64_t until = lat_now_ns() + ENGINE_BOUND_MS * LAT_NS_PER_MS;
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), status = -1, result = -1;

	e->exit_item = (struct lat_poll_item){ .fd = pidfd, .ready = engine_exit_ready };
	lat_poller_add(e->poller, &e->exit_item, EPOLLIN);
	while (lat_now_ns() < until && result < 0) {
		engine_step(e, 50);
		if (waitpid(pid, &status, WNOHANG) == pid)
			result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
	lat_poller_del(e->poller, &e->exit_item);
	close(pidfd);
	if (result < 0) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
	}
	return result;
}

__attribute__((unused)) static int engine_run(struct engine *e, int (*fn)(void *arg), void *arg)
{
	return engine_wait(e, trap_spawn(&e->trap, fn, arg));
}

/* Runs the engine until `counter` has reached `value`. */
__attribute__((unused)) static bool engine_until(struct engine *e, const unsigned *counter, unsigned value)
{
	uint64_t until = lat_now_ns() + ENGINE_BOUND_MS * LAT_NS_PER_MS;

	while (*counter < value && lat_now_ns() < until)
		engine_step(e, 50);
	return *counter >= value;
}

/* Runs the engine until every TCP flow has ended. */
__attribute__((unused)) static bool engine_settle(struct engine *e)
{
	uint64_t until = lat_now_ns() + ENGINE_BOUND_MS * LAT_NS_PER_MS;
	struct lat_flows_stats s;

	do {
		engine_step(e, 20);
		lat_flows_get_stats(e->flows, &s);
	} while ((s.live_tcp || s.pending) && lat_now_ns() < until);
	return !s.live_tcp && !s.pending;
}

static int engine_setup(void **state)
{
	struct engine *e = calloc(1, sizeof(*e));

	e->fds = engine_count_fds();
	trap_open(&e->trap);
	e->server = engine_outside(engine_echo);
	e->action = LAT_ACTION_ALLOW;
	e->hooks = (struct lat_flows_hooks){ e, engine_judge, engine_dial_failed, engine_closed, engine_want };
	if (lat_poller_new(&e->poller) < 0)
		return -1;
	e->options = (struct lat_flows_options){ .poller = e->poller, .hooks = &e->hooks, .queue = e->trap.queue,
		.listener = e->trap.listener, .raw4 = e->trap.raw4, .raw6 = e->trap.raw6 };
	if (lat_flows_new(&e->options, &e->flows) < 0)
		return -1;
	*state = e;
	return 0;
}

static int engine_teardown(void **state)
{
	struct engine *e = *state;
	int status;

	lat_flows_free(e->flows);
	lat_poller_free(e->poller);
	while (e->given < TRAP_POOL)
		close(e->trap.pool[e->given++]);
	kill(e->server, SIGKILL);
	waitpid(e->server, &status, 0);
	if (e->other_server > 0) {
		kill(e->other_server, SIGKILL);
		waitpid(e->other_server, &status, 0);
	}
	trap_close(&e->trap);
	status = engine_count_fds() - e->fds;
	if (status)
		fprintf(stderr, "%d descriptors left behind\n", status);
	free(e);
	return status;
}

#endif
