/* See dns_cache.h. A small table searched from end to end: a run knows tens of names, not
 * thousands. */
#include "core/dns_cache.h"
#include "base/clock.h"
#include "base/mem.h"
#include "core/names.h"
#include <string.h>

struct entry {
	char name[LAT_NAME_MAX];
	uint8_t family; /* 0: free */
	uint64_t stored_ns, until_ns;
	size_t addr_count, cname_count;
	int status;
	uint8_t *data; /* addresses, then aliases, exactly as long as they are */
};

struct lat_dns_cache {
	size_t max;
	struct entry entries[];
};

int lat_dns_cache_new(size_t max, struct lat_dns_cache **out)
{
	struct lat_dns_cache *cache = calloc(1, sizeof(*cache) + max * sizeof(cache->entries[0]));

	if (!cache)
		return -ENOMEM;
	cache->max = max;
	*out = cache;
	return 0;
}

void lat_dns_cache_free(struct lat_dns_cache *cache)
{
	if (!cache)
		return;
	for (size_t i = 0; i < cache->max; i++)
		free(cache->entries[i].data);
	free(cache);
}

static struct entry *find(struct lat_dns_cache *cache, const char *name, int family)
{
	for (size_t i = 0; i < cache->max; i++)
		if (cache->entries[i].family == family && strcmp(cache->entries[i].name, name) == 0)
			return &cache->entries[i];
	return NULL;
}

static struct entry *make_room(struct lat_dns_cache *cache)
{
	struct entry *first = &cache->entries[0];

	for (size_t i = 0; i < cache->max; i++) {
		struct entry *e = &cache->entries[i];

		if (!e->family)
			return e;
		if (e->until_ns < first->until_ns)
			first = e;
	}
	return first;
}

void lat_dns_cache_put(struct lat_dns_cache *cache, const char *name, int family,
	const struct lat_resolved *result, uint32_t ttl_s, uint64_t now_ns)
{
	size_t addrs = result->addr_count * sizeof(result->addrs[0]);
	size_t cnames = result->cname_count * sizeof(result->cnames[0]);
	struct entry *e;
	uint8_t *data;

	if (strlen(name) >= LAT_NAME_MAX)
		return;
	data = malloc(addrs + cnames + 1);
	if (!data)
		return;
	memcpy(data, result->addrs, addrs);
	memcpy(data + addrs, result->cnames, cnames);
	e = find(cache, name, family);
	if (!e)
		e = make_room(cache);
	free(e->data);
	strcpy(e->name, name);
	e->family = (uint8_t)family;
	e->stored_ns = now_ns;
	e->until_ns = now_ns + ttl_s * LAT_NS_PER_SEC;
	e->addr_count = result->addr_count;
	e->cname_count = result->cname_count;
	e->status = result->status;
	e->data = data;
}

static uint32_t left(uint32_t ttl, uint64_t age_s)
{
	return age_s >= ttl ? 0 : ttl - (uint32_t)age_s;
}

bool lat_dns_cache_get(struct lat_dns_cache *cache, const char *name, int family, uint64_t now_ns,
	struct lat_resolved *out)
{
	struct entry *e = find(cache, name, family);
	uint64_t age_s;
	size_t addrs;

	if (!e || now_ns >= e->until_ns)
		return false;
	age_s = (now_ns - e->stored_ns) / LAT_NS_PER_SEC;
	addrs = e->addr_count * sizeof(out->addrs[0]);
	out->status = e->status;
	out->addr_count = e->addr_count;
	out->cname_count = e->cname_count;
	memcpy(out->addrs, e->data, addrs);
	memcpy(out->cnames, e->data + addrs, e->cname_count * sizeof(out->cnames[0]));
	for (size_t i = 0; i < out->addr_count; i++)
		out->addrs[i].ttl = left(out->addrs[i].ttl, age_s);
	for (size_t i = 0; i < out->cname_count; i++)
		out->cnames[i].ttl = left(out->cnames[i].ttl, age_s);
	return true;
}
