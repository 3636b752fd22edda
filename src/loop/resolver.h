/* The host's resolver (hosts file and the name servers of resolv.conf), asynchronous, by c-ares on
 * the libuv loop. */
#ifndef LAT_LOOP_RESOLVER_H
#define LAT_LOOP_RESOLVER_H
#include "base/addr.h"
#include <uv.h>

struct lat_resolver;

#define LAT_RESOLVE_MAX_ADDRS 64
#define LAT_RESOLVE_MAX_CNAMES 16

struct lat_resolved {
	int status; /* 0; -ENOENT: no such name; -ENODATA: the name has no address of this family;
		       -ETIMEDOUT; -EAGAIN: server failure */
	size_t addr_count;
	struct {
		struct lat_addr addr;
		uint32_t ttl;
	} addrs[LAT_RESOLVE_MAX_ADDRS];
	size_t cname_count; /* the chain, in order: alias, then its target; the last target owns the
			       addresses */
	struct {
		char alias[254], target[254];
		uint32_t ttl;
	} cnames[LAT_RESOLVE_MAX_CNAMES];
};

int lat_resolver_new(uv_loop_t *loop, struct lat_resolver **out);
/* Every open question gets its callback with -ECANCELED before this returns; handles close on the
 * loop. */
void lat_resolver_free(struct lat_resolver *resolver);
/* Resolves `name` for one family (4 or 6). `done` runs on the loop, never inside this call. 0 or
 * negative errno. */
int lat_resolver_ask(struct lat_resolver *resolver, const char *name, int family,
	void (*done)(void *arg, const struct lat_resolved *result), void *arg);

#endif
