/* Many small datagrams, counted at both ends.
 *
 *   flood sink PORT...                       says "ready"; when its input ends: a line "PORT COUNT" each
 *   flood send HOST SECONDS PPS PORT...      PPS 0: as many as go; at the end: a line "PORT COUNT" each, and "seconds S"
 *
 * The sender takes the ports in turn, and for each port 16 sources in turn. HOST is an IPv4 address. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORTS 8
#define SOURCES 16
#define BATCH 64
#define PAYLOAD 18
#define TICK_NS 200000

static int ports[PORTS], port_count;
static uint64_t counts[PORTS];

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void report(void)
{
	for (int i = 0; i < port_count; i++)
		printf("%d %llu\n", ports[i], (unsigned long long)counts[i]);
}

static void sink(void)
{
	static char bytes[BATCH][PAYLOAD];
	struct pollfd fds[PORTS + 1] = { { .fd = 0, .events = POLLIN } };
	struct mmsghdr heads[BATCH] = { 0 };
	struct iovec parts[BATCH];
	bool ended = false;
	int room = 64 << 20;

	for (int i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){ bytes[i], PAYLOAD };
		heads[i].msg_hdr = (struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1 };
	}
	for (int i = 0; i < port_count; i++) {
		struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons((uint16_t)ports[i]) };

		fds[i + 1] = (struct pollfd){ socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), POLLIN, 0 };
		if (setsockopt(fds[i + 1].fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) < 0)
			setsockopt(fds[i + 1].fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
		if (bind(fds[i + 1].fd, (struct sockaddr *)&any, sizeof(any)) < 0)
			die("bind");
	}
	puts("ready");
	for (;;) {
		/* The end: whatever is still on its way has a moment. */
		int n = poll(ended ? fds + 1 : fds, (nfds_t)(ended ? port_count : port_count + 1), ended ? 100 : -1);

		if (n == 0)
			break;
		if (!ended && fds[0].revents)
			ended = true;
		for (int i = 0; i < port_count; i++) {
			int got = recvmmsg(fds[i + 1].fd, heads, BATCH, MSG_DONTWAIT, NULL);

			if (got > 0)
				counts[i] += (uint64_t)got;
		}
	}
	report();
}

static void send_all(const char *host, double seconds, uint64_t pps)
{
	static const char zeros[PAYLOAD];
	struct sockaddr_in to[PORTS];
	struct iovec part = { (void *)zeros, PAYLOAD };
	struct mmsghdr heads[BATCH] = { 0 };
	int sockets[SOURCES], next = 0, source = 0;
	uint64_t start, end, sent = 0, now;

	for (int i = 0; i < port_count; i++) {
		to[i] = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)ports[i]) };
		if (inet_pton(AF_INET, host, &to[i].sin_addr) != 1)
			die("address");
	}
	for (int i = 0; i < SOURCES; i++)
		sockets[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	start = now_ns();
	end = start + (uint64_t)(seconds * 1e9);
	while ((now = now_ns()) < end) {
		uint64_t due = pps ? (now - start) * pps / 1000000000u - sent : BATCH;
		int n = due < BATCH ? (int)due : BATCH, went;

		if (!n) {
			nanosleep(&(struct timespec){ 0, TICK_NS }, NULL);
			continue;
		}
		for (int i = 0; i < n; i++)
			heads[i].msg_hdr = (struct msghdr){ .msg_name = &to[(next + i) % port_count], .msg_namelen = sizeof(to[0]),
				.msg_iov = &part, .msg_iovlen = 1 };
		went = sendmmsg(sockets[source], heads, (unsigned)n, 0);
		if (went < 0 && errno != EAGAIN && errno != ENOBUFS && errno != EPERM)
			die("send");
		for (int i = 0; i < went; i++)
			counts[(next + i) % port_count]++;
		if (went > 0) {
			sent += (uint64_t)went;
			next = (next + went) % port_count;
		}
		source = (source + 1) % SOURCES;
	}
	report();
	printf("seconds %.6f\n", (double)(now_ns() - start) / 1e9);
}

int main(int argc, char **argv)
{
	bool sender = argc > 5 && strcmp(argv[1], "send") == 0;
	int first = sender ? 5 : 2;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc <= first || argc - first > PORTS || (!sender && strcmp(argv[1], "sink") != 0)) {
		fprintf(stderr, "usage: flood sink PORT... | flood send HOST SECONDS PPS PORT...\n");
		return 2;
	}
	for (int i = first; i < argc; i++)
		ports[port_count++] = atoi(argv[i]);
	if (sender)
		send_all(argv[2], atof(argv[3]), (uint64_t)atoll(argv[4]));
	else
		sink();
	return 0;
}
