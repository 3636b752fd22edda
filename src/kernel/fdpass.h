/* One descriptor, or the errno for which there is none, from a child to its parent over a SOCK_SEQPACKET pair. */
#ifndef LAT_KERNEL_FDPASS_H
#define LAT_KERNEL_FDPASS_H

/* fd -1: sends `error` (negative) instead. 0, or negative errno. The descriptor stays the caller's. */
int lat_fd_send(int sock, int fd, int error);
/* The descriptor (close-on-exec, the caller's), or the negative errno that was sent; -EPIPE: the other side ended without
 * a word. */
int lat_fd_receive(int sock);

#endif
