/* Sockets for the programs inside: connect by address text. */
#ifndef TESTS_SUPPORT_DIAL_H
#define TESTS_SUPPORT_DIAL_H
#include "base/addr.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct target { const char *host; int port; };

static socklen_t target_address(const struct target *t, struct sockaddr_storage *to)
{
	struct lat_addr a;

	if (lat_addr_parse(t->host, &a) < 0)
		_exit(97);
	return lat_addr_to_sockaddr(&a, (uint16_t)t->port, false, to);
}

/* -1 with errno. */
__attribute__((unused)) static int target_connect(const struct target *t, int type)
{
	struct sockaddr_storage to;
	socklen_t len = target_address(t, &to);
	struct timeval bound = { .tv_sec = 15 };
	int fd = socket(to.ss_family, type | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof(bound));
	if (connect(fd, (struct sockaddr *)&to, len) < 0) {
		int err = errno;

		close(fd);
		errno = err;
		return -1;
	}
	return fd;
}

/* A program that says hello to an echo server and reads to the end. 0: all is well; else an errno of connect or 200. */
__attribute__((unused)) static int target_echo(void *arg)
{
	struct target *t = arg;
	int fd = target_connect(t, SOCK_STREAM);
	char buf[64];

	if (fd < 0)
		return errno;
	if (write(fd, "hello", 5) != 5 || read(fd, buf, sizeof(buf)) != 5 || memcmp(buf, "hello", 5) != 0)
		return 200;
	if (shutdown(fd, SHUT_WR) < 0 || read(fd, buf, sizeof(buf)) != 0)
		return 201;
	return 0;
}

#endif
