/* Questions to sock_diag over a NETLINK_SOCK_DIAG socket, which may belong to another network namespace. Synchronous: the
 * kernel answers inside the call. The descriptor may be non-blocking; one user at a time. */
#ifndef LAT_KERNEL_DIAG_H
#define LAT_KERNEL_DIAG_H
#include "base/addr.h"
#include <sys/types.h>

struct lat_diag_socket {
	uint32_t inode; /* of sockfs: the number in "socket:[N]"; 0: no process holds it */
	uid_t uid;
	uint64_t cgroup; /* id of the v2 group in which it was made; 0: unknown (kernels before 5.8, or no cgroup v2) */
};

/* The TCP or UDP socket that owns the local end of this tuple; an unconnected UDP socket counts. 0, -ENOENT, else
 * negative errno. */
int lat_diag_inet(int fd, uint8_t proto, const struct lat_addr *local, uint16_t local_port,
	const struct lat_addr *remote, uint16_t remote_port, struct lat_diag_socket *out);
/* Does a unix socket of the namespace *listen* on the file (dev, ino)? Only a listening one counts: a socket that is
 * connected, or waits to be accepted, carries the file of the listener, which may be another namespace's. 1, 0, or
 * negative errno (-E2BIG: more sockets than we look at). The kernel tells 32 bits of the inode number. `name`, if not NULL,
 * gets the path as the listener was bound to it, whatever the file is called now; "" if it does not fit. */
int lat_diag_unix_listens(int fd, dev_t dev, ino_t ino, char *name, size_t size);
/* As above; *inode is that of the listening socket ("socket:[N]"). */
int lat_diag_unix_listener(int fd, dev_t dev, ino_t ino, uint32_t *inode);
/* The socket that listens on an abstract name (name: without the NUL before it). 1, 0, or negative errno. */
int lat_diag_unix_abstract(int fd, const void *name, size_t len, uint32_t *inode);

#endif
