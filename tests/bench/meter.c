/* A small meter for the data path: one program that is the server or the client.
 *
 *   meter server PORT                          TCP and UDP, all addresses; says "ready" on stdout
 *   meter MODE HOST PORT SECONDS [SIZE]        HOST is a numeric address
 *
 * MODE: stream    client sends as fast as it goes          -> "stream GBIT/S"
 *       rstream   the server sends                         -> "rstream GBIT/S"
 *       rr        request and response on one connection   -> "rr PER_SECOND P50_US P99_US P999_US"
 *       crr       connect, request, response, close        -> the same
 *       udprr     request and response by datagrams        -> the same
 *       connect   connect and reset, nothing sent          -> the same; the times are of connect(2) alone
 * The first byte that a server reads on a connection names what it does: E echo, S sink, R send. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUF (256 << 10)
#define CHUNK (128 << 10)
#define FDS_MAX 65536

static char buf[BUF];

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- server ---- */

static char mode_of[FDS_MAX];

static void watch(int ep, int op, int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.fd = fd };

	if (epoll_ctl(ep, op, fd, &ev) < 0)
		die("epoll_ctl");
}

static int listener(int port, int type)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
	int fd = socket(AF_INET6, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0 || (type == SOCK_STREAM && listen(fd, 4096) < 0))
		die("listen");
	return fd;
}

static void serve_accept(int ep, int tcp)
{
	int fd, on = 1;

	while ((fd = accept4(tcp, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		if (fd >= FDS_MAX) {
			close(fd);
			continue;
		}
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		mode_of[fd] = 0;
		watch(ep, EPOLL_CTL_ADD, fd, EPOLLIN);
	}
}

static void serve_udp(int udp)
{
	struct sockaddr_in6 from;
	socklen_t len = sizeof(from);
	ssize_t n;

	while ((n = recvfrom(udp, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len)) >= 0) {
		sendto(udp, buf, (size_t)n, 0, (struct sockaddr *)&from, len);
		len = sizeof(from);
	}
}

/* Echo and sink. */
static void serve_read(int ep, int fd)
{
	for (;;) {
		ssize_t n = read(fd, buf, sizeof(buf));

		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			close(fd);
			return;
		}
		if (!mode_of[fd])
			mode_of[fd] = buf[0];
		if (mode_of[fd] == 'R') {
			watch(ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT);
			return;
		}
		if (mode_of[fd] == 'E' && write(fd, buf, (size_t)n) != n) {
			close(fd);
			return;
		}
		if (n < (ssize_t)sizeof(buf))
			return;
	}
}

static void serve_send(int fd)
{
	ssize_t n;

	while ((n = write(fd, buf, CHUNK)) > 0)
		;
	if (errno != EAGAIN)
		close(fd);
}

static void serve(int port)
{
	struct rlimit files = { FDS_MAX, FDS_MAX };
	int ep = epoll_create1(EPOLL_CLOEXEC), tcp = listener(port, SOCK_STREAM), udp = listener(port, SOCK_DGRAM);
	struct epoll_event got[64];

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	watch(ep, EPOLL_CTL_ADD, tcp, EPOLLIN);
	watch(ep, EPOLL_CTL_ADD, udp, EPOLLIN);
	puts("ready");
	for (;;) {
		int n = epoll_wait(ep, got, 64, -1);

		for (int i = 0; i < n; i++) {
			int fd = got[i].data.fd;

			if (fd == tcp)
				serve_accept(ep, tcp);
			else if (fd == udp)
				serve_udp(udp);
			else if (mode_of[fd] == 'R')
				serve_send(fd);
			else
				serve_read(ep, fd);
		}
	}
}

/* ---- client ---- */

static struct sockaddr_storage to;
static socklen_t to_len;
static float *times;
static size_t times_count, times_room;

static void aim(const char *host, int port)
{
	struct sockaddr_in *in4 = (struct sockaddr_in *)&to;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&to;

	if (inet_pton(AF_INET, host, &in4->sin_addr) == 1) {
		in4->sin_family = AF_INET;
		in4->sin_port = htons((uint16_t)port);
		to_len = sizeof(*in4);
	} else if (inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons((uint16_t)port);
		to_len = sizeof(*in6);
	} else {
		fprintf(stderr, "meter: %s is no address\n", host);
		exit(2);
	}
}

static void record(double seconds)
{
	if (times_count == times_room) {
		times_room = times_room ? times_room * 2 : 65536;
		times = realloc(times, times_room * sizeof(*times));
		if (!times)
			die("realloc");
	}
	times[times_count++] = (float)(seconds * 1e6);
}

static int by_size(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return x < y ? -1 : x > y;
}

static void report(const char *mode, double elapsed)
{
	size_t n = times_count;

	if (!n) {
		printf("%s 0 0 0 0\n", mode);
		return;
	}
	qsort(times, n, sizeof(*times), by_size);
	printf("%s %.0f %.2f %.2f %.2f\n", mode, (double)n / elapsed, (double)times[n / 2],
		(double)times[(size_t)((double)n * .99)], (double)times[(size_t)((double)n * .999)]);
}

/* took: seconds that connect(2) did */
static int dial(int type, double *took)
{
	int fd = socket(to.ss_family, type | SOCK_CLOEXEC, 0), on = 1;
	double from = now();

	if (connect(fd, (struct sockaddr *)&to, to_len) < 0)
		die("connect");
	*took = now() - from;
	if (type == SOCK_STREAM)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static void stream(const char *mode, double seconds)
{
	bool back = mode[0] == 'r';
	double start, t = 0;
	int fd = dial(SOCK_STREAM, &start);
	uint64_t bytes = 0;

	buf[0] = back ? 'R' : 'S';
	if (back && write(fd, buf, 1) != 1)
		die("write");
	start = now();
	while (t < seconds) {
		ssize_t n = back ? read(fd, buf, sizeof(buf)) : write(fd, buf, CHUNK);

		if (n <= 0)
			die("transfer");
		bytes += (uint64_t)n;
		t = now() - start;
	}
	printf("%s %.3f\n", mode, (double)bytes * 8 / 1e9 / t);
}

static void exchange(int fd, size_t size)
{
	buf[0] = 'E';
	if (write(fd, buf, size) != (ssize_t)size)
		die("write");
	for (size_t got = 0; got < size;) {
		ssize_t n = read(fd, buf + CHUNK, size - got);

		if (n <= 0)
			die("read");
		got += (size_t)n;
	}
}

/* Reset at the end: no port is left in TIME_WAIT. */
static void reset(int fd)
{
	struct linger now_linger = { 1, 0 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now_linger, sizeof(now_linger));
	close(fd);
}

static void transactions(const char *mode, double seconds, size_t size)
{
	bool each = mode[0] == 'c', silent = strcmp(mode, "connect") == 0;
	int type = strcmp(mode, "udprr") == 0 ? SOCK_DGRAM : SOCK_STREAM;
	double start = now(), t = start, end, took = 0;
	int fd = -1;

	while (t - start < seconds) {
		if (fd < 0)
			fd = dial(type, &took);
		if (!silent)
			exchange(fd, size);
		if (each) {
			reset(fd);
			fd = -1;
		}
		end = now();
		record(silent ? took : end - t);
		t = end;
	}
	report(mode, t - start);
}

int main(int argc, char **argv)
{
	static const char *const modes[] = { "rr", "crr", "udprr", "connect" };
	size_t size = argc > 5 ? (size_t)atol(argv[5]) : 64;

	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 3 && strcmp(argv[1], "server") == 0)
		serve(atoi(argv[2]));
	if (argc < 5 || size < 1 || size > CHUNK) {
		fprintf(stderr, "usage: meter server PORT | meter stream|rstream|rr|crr|udprr|connect HOST PORT SECONDS [SIZE]\n");
		return 2;
	}
	aim(argv[2], atoi(argv[3]));
	if (strcmp(argv[1], "stream") == 0 || strcmp(argv[1], "rstream") == 0) {
		stream(argv[1], atof(argv[4]));
		return 0;
	}
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strcmp(argv[1], modes[i]) == 0) {
			transactions(modes[i], atof(argv[4]), size);
			return 0;
		}
	fprintf(stderr, "meter: unknown mode %s\n", argv[1]);
	return 2;
}
