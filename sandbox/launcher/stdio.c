/* What the command may have as descriptors 0, 1 and 2. A descriptor can be opened again with other
 * rights (/proc/self/fd), and a folder leads on into the mounts outside: so it is not asked how the
 * caller opened it, but what it is. */
#include "base/mem.h"
#include "launcher/setup.h"
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#ifndef PID_FS_MAGIC
#define PID_FS_MAGIC 0x50494446
#endif
#define TUN_MAJOR 10
#define TUN_MINOR 200

/* May a socket go in as standard input or output? A connected unix stream or sequenced-packet
 * socket may: it is how libuv and sshd make pipes, and it can be aimed at nothing else (connect
 * says EISCONN). Any other socket is the host's network, or (unix datagrams) could be. */
static bool harmless_socket(int fd)
{
	struct sockaddr_un peer;
	socklen_t len = sizeof(peer);
	int domain = 0, type = 0;
	socklen_t n = sizeof(domain);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) || domain != AF_UNIX)
		return false;
	n = sizeof(type);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) ||
		(type != SOCK_STREAM && type != SOCK_SEQPACKET))
		return false;
	/* Without a peer it was never connected, or (errno ECONNRESET and the like) is past use. */
	return getpeername(fd, (struct sockaddr *)&peer, &len) == 0;
}

static bool harmless_file(int fd, const struct stat *st)
{
	struct statfs fs;

	if (S_ISDIR(st->st_mode) || fstatfs(fd, &fs))
		return false;
	switch (fs.f_type) {
	case ANON_INODE_FS_MAGIC: /* of BPF, io_uring, seccomp, a process */
	case PID_FS_MAGIC:
	case NSFS_MAGIC:
	case BPF_FS_MAGIC:
	case CGROUP_SUPER_MAGIC:
	case CGROUP2_SUPER_MAGIC:
		return false;
	case PROC_SUPER_MAGIC:
	case SYSFS_MAGIC:
	case DEBUGFS_MAGIC:
	case TRACEFS_MAGIC:
	case SECURITYFS_MAGIC:
		return !(st->st_mode & 0222);
	default:
		/* A TUN device sends packets of any kind, past the wall. */
		return !S_ISCHR(st->st_mode) || st->st_rdev != makedev(TUN_MAJOR, TUN_MINOR);
	}
}

void lat_stdio_clean(void)
{
	for (int fd = 0; fd < 3; fd++) {
		struct stat st;
		int null;

		if (!fstat(fd, &st) &&
			(S_ISSOCK(st.st_mode) ? harmless_socket(fd) : harmless_file(fd, &st)))
			continue;
		null = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (null != fd && (null < 0 || dup2(null, fd) < 0))
			close(fd);
		else if (null == fd)
			fcntl(fd, F_SETFD, 0);
	}
}
