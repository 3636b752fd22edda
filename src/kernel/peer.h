/* Who is at the other end of a unix stream socket, as the kernel tells it. */
#ifndef LAT_KERNEL_PEER_H
#define LAT_KERNEL_PEER_H
#include <sys/types.h>

struct lat_peer {
	pid_t pid; /* 0: in a pid namespace that is not below ours */
	uid_t uid;
	gid_t gid;
	gid_t *groups; /* supplementary ones; lat_peer_fini frees them */
	unsigned group_count;
};

/* Of the moment of its connect(). 0, or negative errno with *out untouched. */
int lat_peer_get(int fd, struct lat_peer *out);
void lat_peer_fini(struct lat_peer *peer);

/* 1 when the process is in our pid and user namespace, 0 when it is in another one, negative errno when that cannot be
 * told (the process is gone, /proc is not there). */
int lat_peer_at_home(pid_t pid);

/* The same of the socket that was connected, by the accepted one: where the network namespace it was made in belongs to.
 * Another process may have connected it, as the supervisor of a sandbox does. 1, 0, or negative errno. */
int lat_peer_socket_at_home(int fd);

/* From a listening socket on: the kernel tells of each write on what it accepts which process made it. */
int lat_peer_tell_writers(int listener);
/* The process that wrote what is to be read next, which stays there; 0: in a pid namespace that is not below ours, or the other
 * end has closed. -EAGAIN: nothing is there yet. */
int lat_peer_writer(int fd, pid_t *pid);

#endif
