/* Which sockets the processes of a cgroup hold. */
#ifndef LAT_KERNEL_GROUP_SOCKETS_H
#define LAT_KERNEL_GROUP_SOCKETS_H
#include <stdint.h>

/* Does a process of the group (v2 directory `path`) hold the socket with this inode number ("socket:[N]")? 1, 0, or negative
 * errno (-E2BIG: more processes or descriptors than we look at). */
int lat_group_holds_socket(const char *path, uint32_t inode);

#endif
