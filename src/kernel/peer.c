/* See peer.h.
 *
 * Namespaces are compared by the links of /proc/PID/ns. Reading those takes the right to trace the process, which an agent
 * that has dropped its capabilities lacks towards a root with all of them. Then two files that everyone may read tell:
 * NSpid has one number for each pid namespace the process is in, and uid_map is another one in another user namespace. */
#include "kernel/peer.h"
#include "base/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_GROUPS 65536 /* NGROUPS_MAX of the kernel */

int lat_peer_get(int fd, struct lat_peer *out)
{
	lat_autofree gid_t *groups = NULL;
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	if (len != sizeof(cred))
		return -EPROTO;
	len = 0;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &len) < 0 && errno != ERANGE)
		return -errno;
	if (len > MAX_GROUPS * sizeof(*groups))
		return -EPROTO;
	groups = malloc(len + 1);
	if (!groups)
		return -ENOMEM;
	if (len > 0 && getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0)
		return -errno;
	*out = (struct lat_peer){ .pid = cred.pid, .uid = cred.uid, .gid = cred.gid,
		.group_count = len / sizeof(*groups) };
	out->groups = lat_take(&groups);
	return 0;
}

void lat_peer_fini(struct lat_peer *peer)
{
	free(peer->groups);
	peer->groups = NULL;
}

/* The text of /proc/WHO/NAME; 0 or negative errno. */
static int read_file(const char *who, const char *name, char *buf, size_t size)
{
	lat_autoclose int fd = -1;
	char path[64];
	size_t len = 0;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%s/%s", who, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (len < size - 1 && (n = read(fd, buf + len, size - 1 - len)) != 0) {
		if (n < 0)
			return -errno;
		len += (size_t)n;
	}
	buf[len] = '\0';
	return 0;
}

static int read_link(const char *who, const char *name, char *buf, size_t size)
{
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%s/ns/%s", who, name);
	n = readlink(path, buf, size - 1);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	return 0;
}

/* How many pid namespaces the process is in, counted from the one of the mounted /proc. */
static int depth(const char *who)
{
	char text[4096], *line, *save = NULL;
	int r = read_file(who, "status", text, sizeof(text)), count = 0;

	if (r < 0)
		return r;
	line = strstr(text, "\nNSpid:");
	if (!line)
		return -ENODATA;
	line += strlen("\nNSpid:");
	line[strcspn(line, "\n")] = '\0';
	for (char *word = strtok_r(line, " \t", &save); word; word = strtok_r(NULL, " \t", &save))
		count++;
	return count;
}

static int same_without_links(const char *who)
{
	char ours[4096], theirs[4096];
	int a = depth("self"), b = depth(who), r;

	if (a < 0 || b < 0)
		return a < 0 ? a : b;
	if (a != b)
		return 0;
	r = read_file("self", "uid_map", ours, sizeof(ours));
	if (r == 0)
		r = read_file(who, "uid_map", theirs, sizeof(theirs));
	return r < 0 ? r : strcmp(ours, theirs) == 0;
}

int lat_peer_at_home(pid_t pid)
{
	static const char *const names[] = { "pid", "user" };
	char who[16], ours[64], theirs[64];
	int r;

	if (pid <= 0)
		return 0;
	snprintf(who, sizeof(who), "%d", pid);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		r = read_link("self", names[i], ours, sizeof(ours));
		if (r == 0)
			r = read_link(who, names[i], theirs, sizeof(theirs));
		if (r == -EACCES || r == -EPERM)
			return same_without_links(who);
		if (r < 0)
			return r;
		if (strcmp(ours, theirs) != 0)
			return 0;
	}
	return 1;
}

/* The accepted end of a unix stream is made in the namespace of the end that connected. */
int lat_peer_socket_at_home(int fd)
{
	lat_autoclose int net = -1, owner = -1;
	struct stat theirs, ours;

	net = ioctl(fd, SIOCGSKNS);
	if (net < 0)
		return -errno;
	owner = ioctl(net, NS_GET_USERNS);
	if (owner < 0)
		return errno == EPERM ? 0 : -errno; /* one that is not below ours */
	if (fstat(owner, &theirs) < 0 || stat("/proc/self/ns/user", &ours) < 0)
		return -errno;
	return theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev;
}

int lat_peer_tell_writers(int listener)
{
	int on = 1;

	return setsockopt(listener, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ? -errno : 0;
}

int lat_peer_writer(int fd, pid_t *pid)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	char byte;
	struct iovec part = { &byte, 1 };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(fd, &m, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return -errno;
	*pid = 0;
	for (struct cmsghdr *c = n ? CMSG_FIRSTHDR(&m) : NULL; c; c = CMSG_NXTHDR(&m, c)) {
		struct ucred cred;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_CREDENTIALS)
			continue;
		memcpy(&cred, CMSG_DATA(c), sizeof(cred));
		*pid = cred.pid;
	}
	return 0;
}
