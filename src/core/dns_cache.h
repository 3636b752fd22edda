/* Answers of the host's resolver, kept for their TTL, for one run. Raw: judging and the rebinding
 * guard come after. */
#ifndef LAT_CORE_DNS_CACHE_H
#define LAT_CORE_DNS_CACHE_H
#include "loop/resolver.h"

struct lat_dns_cache;

int lat_dns_cache_new(size_t max, struct lat_dns_cache **out);
void lat_dns_cache_free(struct lat_dns_cache *cache);
/* Stores the result for ttl_s seconds; the entry that ends first makes room. No memory: it is not
 * stored. */
void lat_dns_cache_put(struct lat_dns_cache *cache, const char *name, int family,
	const struct lat_resolved *result, uint32_t ttl_s, uint64_t now_ns);
/* Fills *out, with TTLs counted down, if the answer is there and still good. */
bool lat_dns_cache_get(struct lat_dns_cache *cache, const char *name, int family, uint64_t now_ns,
	struct lat_resolved *out);

#endif
