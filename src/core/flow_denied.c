/* Refusals remembered: a program that keeps sending datagrams to a refused place is refused again without another judgement
 * and another audit record for each. Direct-mapped: a collision costs a judgement, no more. */
#include "core/flow_impl.h"
#include "base/clock.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COUNT 256u /* a power of two */
#define KEEP_NS LAT_NS_PER_SEC

struct lat_denials {
	struct denial {
		struct lat_conn_key key;
		struct lat_verdict verdict; /* pointers cleared: the generation may go */
		uint64_t until_ns;
	} at[COUNT];
};

int lat_denials_new(struct lat_denials **out)
{
	struct lat_denials *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	*out = d;
	return 0;
}

void lat_denials_clear(struct lat_denials *d)
{
	memset(d, 0, sizeof(*d));
}

static struct denial *slot(struct lat_flows *f, const struct lat_conn_key *key)
{
	return &f->denials->at[lat_conn_hash(f, key) & (COUNT - 1)];
}

void lat_denials_add(struct lat_flows *f, const struct lat_conn_key *key, const struct lat_verdict *v)
{
	struct denial *d = slot(f, key);

	*d = (struct denial){ *key, *v, f->now_ns + KEEP_NS };
	d->verdict.where = d->verdict.reason = NULL;
}

const struct lat_verdict *lat_denials_find(struct lat_flows *f, const struct lat_conn_key *key)
{
	struct denial *d = slot(f, key);

	return d->until_ns > f->now_ns && memcmp(&d->key, key, sizeof(*key)) == 0 ? &d->verdict : NULL;
}
