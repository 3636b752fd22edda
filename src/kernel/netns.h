/* A network namespace of our own, held by descriptors: it ends when they are closed and nobody is in it. Needs no privilege
 * where user namespaces may be made; then the namespace's user namespace comes with it. Its loopback is up. */
#ifndef LAT_KERNEL_NETNS_H
#define LAT_KERNEL_NETNS_H
#include "base/addr.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct lat_netns;

int lat_netns_open(struct lat_netns **out);
void lat_netns_close(struct lat_netns *ns); /* NULL is fine */
/* Descriptor of the network namespace; not the caller's to close. */
int lat_netns_fd(const struct lat_netns *ns);
/* Forks a child that enters the namespace (as its root) and runs fn there; the child ends with what fn returns. Its pid,
 * or negative errno. The caller waits for it. */
pid_t lat_netns_fork(const struct lat_netns *ns, int (*fn)(void *ctx), void *ctx);
/* A socket of that namespace, close-on-exec and nonblocking; or negative errno. */
int lat_netns_socket(const struct lat_netns *ns, int family, int type, int protocol);

struct lat_netns_link {
	char name[16];
	uint32_t index, mtu;
	bool up;
};
/* Calls fn for each network device in the namespace. 0, or negative errno. */
int lat_netns_links(const struct lat_netns *ns, void (*fn)(void *ctx, const struct lat_netns_link *link), void *ctx);

#endif
