/* The self-check: before the command runs, its own process tries what must fail. Each try that is
 * not refused is a bit. */
#include "base/mem.h"
#include "launcher/setup.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

/* A try that nobody answers is refused as well, only slowly; the supervisor is expected to answer
 * at once. */
#define PATIENCE_MS 2000

static const struct sockaddr_in *target(void)
{
	static struct sockaddr_in at = { .sin_family = AF_INET };

	at.sin_port = htons(LAT_PROBE_PORT);
	inet_pton(AF_INET, LAT_PROBE_ADDR4, &at.sin_addr);
	return &at;
}

/* True when the socket is or becomes connected. */
static bool gets_through(int fd)
{
	struct pollfd p = { fd, POLLOUT, 0 };
	int error = 0;
	socklen_t len = sizeof(error);
	struct sockaddr_storage peer;
	socklen_t peer_len = sizeof(peer);

	poll(&p, 1, PATIENCE_MS);
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) || error)
		return false;
	return !getpeername(fd, (struct sockaddr *)&peer, &peer_len);
}

/* In the host's network a missing route refuses as well, and says nothing of the wall: only what the
 * programs answer counts. */
static bool by_wall(const struct lat_setup *s, int error)
{
	return s->spec->network == LAT_NETWORK_TRAP || error == ECONNREFUSED ||
	       error == EACCES || error == EPERM;
}

static bool try_connect(const struct lat_setup *s)
{
	lat_autoclose int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return false;
	if (!connect(fd, (const struct sockaddr *)target(), sizeof(struct sockaddr_in)))
		return true;
	return errno == EINPROGRESS ? gets_through(fd) : !by_wall(s, errno);
}

static bool try_fastopen(const struct lat_setup *s)
{
	lat_autoclose int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return false;
	if (sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, (const struct sockaddr *)target(),
		    sizeof(struct sockaddr_in)) < 0 &&
		errno != EINPROGRESS)
		return !by_wall(s, errno) && errno != EOPNOTSUPP; /* switched off by a sysctl */
	return gets_through(fd);
}

/* Sent twice over an unconnected socket: what is refused comes back as an error, what passes gets
 * no answer. */
static bool try_udp(const struct lat_setup *s)
{
	lat_autoclose int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	const int on = 1;
	struct pollfd p = { fd, POLLIN, 0 };

	if (fd < 0 || setsockopt(fd, SOL_IP, IP_RECVERR, &on, sizeof(on)))
		return false;
	if (sendto(fd, "x", 1, 0, (const struct sockaddr *)target(), sizeof(struct sockaddr_in)) <
		0)
		return !by_wall(s, errno);
	return poll(&p, 1, PATIENCE_MS) <= 0 || !(p.revents & POLLERR);
}

static bool try_packet(const struct lat_setup *s)
{
	lat_autoclose int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	return fd >= 0;
}

static bool try_userns(const struct lat_setup *s)
{
	return !unshare(CLONE_NEWUSER);
}

static bool try_io_uring(const struct lat_setup *s)
{
	char parameters[120] = { 0 };
	long fd = syscall(SYS_io_uring_setup, 1, parameters);

	if (fd >= 0)
		close((int)fd);
	return fd >= 0;
}

static int try_cgroup_mount(void *ctx, const char *point, const char *type)
{
	char path[4096 + 16];
	struct statfs fs;
	int fd;

	/* One that is covered, or that the command cannot go to, is no way out. */
	if (strncmp(type, "cgroup", 6) || statfs(point, &fs) || !lat_kernelfs_is_cgroup(fs.f_type))
		return 0;
	snprintf(path, sizeof(path), "%s/cgroup.procs", point);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	return fd >= 0 || !(fs.f_flags & ST_RDONLY);
}

static bool try_cgroup(const struct lat_setup *s)
{
	return lat_kernelfs_each(try_cgroup_mount, NULL) != 0;
}

static bool (*const tries[])(const struct lat_setup *) = {
	[LAT_PROBE_CONNECT] = try_connect,
	[LAT_PROBE_FASTOPEN] = try_fastopen,
	[LAT_PROBE_UDP] = try_udp,
	[LAT_PROBE_PACKET] = try_packet,
	[LAT_PROBE_USERNS] = try_userns,
	[LAT_PROBE_IO_URING] = try_io_uring,
	[LAT_PROBE_CGROUP] = try_cgroup,
};
_Static_assert(LAT_ARRAY_SIZE(tries) == LAT_PROBE_COUNT, "a try for each probe");

int lat_probe_run(const struct lat_setup *s, uint32_t *ran)
{
	int through = 0;

	for (*ran = 0; *ran < LAT_PROBE_COUNT; ++*ran)
		if (tries[*ran](s))
			through |= 1 << *ran;
	return through;
}
