/* local NAME: ways to what listens on the host itself, and from there into the sandbox. Each prints how often it got through
 * ("reached N"). */
#include "attack.h"
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <sys/un.h>

#define PATIENCE_MS 300

/* Something came back. */
static int answered(int fd)
{
	struct pollfd p = { fd, POLLIN, 0 };
	char byte;

	return poll(&p, 1, PATIENCE_MS) == 1 && recv(fd, &byte, 1, MSG_DONTWAIT) == 1;
}

static int reach(const void *to, socklen_t len, int type)
{
	int s = socket(((const struct sockaddr *)to)->sa_family, type | SOCK_NONBLOCK, 0), reached;

	connect(s, to, len);
	if (type == SOCK_DGRAM)
		send(s, "x", 1, MSG_NOSIGNAL);
	reached = answered(s);
	close(s);
	if (type == SOCK_STREAM && !reached) {
		s = socket(((const struct sockaddr *)to)->sa_family, type | SOCK_NONBLOCK, 0);
		sendto(s, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, to, len);
		reached = answered(s);
		close(s);
	}
	if (type == SOCK_DGRAM && !reached) {
		s = socket(((const struct sockaddr *)to)->sa_family, type | SOCK_NONBLOCK, 0);
		sendto(s, "x", 1, MSG_NOSIGNAL, to, len);
		reached = answered(s);
		close(s);
	}
	return reached;
}

/* $PORT: a service of the host, on every address, TCP and UDP. */
static int loopback(void)
{
	static const char *const list[] = { "127.0.0.1", "127.9.9.9", "127.0.0.53", "0.0.0.0", "203.0.113.1", "::1", "::",
		"::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:203.0.113.1", "2001:db8::1" };
	int port = atoi(getenv("PORT") ? getenv("PORT") : "0"), reached = 0;

	for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
		struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
		struct sockaddr_in6 b = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };

		if (inet_pton(AF_INET, list[i], &a.sin_addr) == 1) {
			reached += reach(&a, sizeof(a), SOCK_STREAM) + reach(&a, sizeof(a), SOCK_DGRAM);
		} else {
			inet_pton(AF_INET6, list[i], &b.sin6_addr);
			reached += reach(&b, sizeof(b), SOCK_STREAM) + reach(&b, sizeof(b), SOCK_DGRAM);
		}
	}
	printf("reached %d\n", reached);
	return 0;
}

static int reach_unix(const struct sockaddr_un *to, size_t name)
{
	const socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name);
	int reached = 0;

	for (int type = SOCK_STREAM; type <= SOCK_SEQPACKET; type += SOCK_SEQPACKET - SOCK_STREAM) {
		int s = socket(AF_UNIX, type, 0);

		reached += connect(s, (const struct sockaddr *)to, len) == 0;
		close(s);
	}
	return reached;
}

/* Listeners of the host: o.sock in the folder $UNIX_DIR, and abstract ones whose names begin with $UNIX_NAME and go on with x.
 * By names of every length: those of 16 and 28 bytes with the family look like addresses of IP to the filter. */
static int unix_lengths(void)
{
	const char *name = getenv("UNIX_NAME");
	int reached = 0;

	if (!name || !getenv("UNIX_DIR") || chdir(getenv("UNIX_DIR")))
		return absent("UNIX_NAME and UNIX_DIR");
	for (size_t n = 6; n <= 40; n++) {
		struct sockaddr_un path = { .sun_family = AF_UNIX }, abstract = { .sun_family = AF_UNIX };

		memset(path.sun_path, '/', n);
		path.sun_path[0] = '.';
		memcpy(path.sun_path + n - 6, "o.sock", 6);
		reached += reach_unix(&path, n);
		memset(abstract.sun_path + 1, 'x', n - 1);
		memcpy(abstract.sun_path + 1, name, strlen(name) < n ? strlen(name) : n - 1);
		reached += reach_unix(&abstract, n);
	}
	printf("reached %d\n", reached);
	return 0;
}

/* Listens without having bound, and where it has; tells the ports; waits for someone from outside. */
static int listening(void)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 }, own;
	struct pollfd p[3] = { { .events = POLLIN }, { .events = POLLIN }, { .events = POLLIN } };
	int reached = 0;

	p[0].fd = socket(AF_INET6, SOCK_STREAM, 0);
	p[1].fd = socket(AF_INET6, SOCK_STREAM, 0);
	p[2].fd = socket(AF_INET6, SOCK_DGRAM, 0);
	bind(p[1].fd, (struct sockaddr *)&any, sizeof(any));
	bind(p[2].fd, (struct sockaddr *)&any, sizeof(any));
	listen(p[0].fd, 8);
	listen(p[1].fd, 8);
	printf("ports");
	for (int i = 0; i < 3; i++) {
		socklen_t len = sizeof(own);

		getsockname(p[i].fd, (struct sockaddr *)&own, &len);
		printf(" %d", ntohs(own.sin6_port));
	}
	printf("\n");
	/* Until the one outside has tried, and says so on standard input. */
	if (getchar() == EOF)
		return 1;
	poll(p, 3, PATIENCE_MS);
	for (int i = 0; i < 3; i++)
		reached += (p[i].revents & POLLIN) != 0;
	printf("reached %d\n", reached);
	return 0;
}

static const struct attack attacks[] = {
	{ "loopback", loopback }, { "unix-lengths", unix_lengths }, { "listening", listening }, { NULL, NULL },
};

int main(int argc, char **argv)
{
	return attack_main(argc, argv, attacks);
}
