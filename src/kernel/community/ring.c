/* See ring.h. */
#include "kernel/ring.h"
#include "base/edition.h"

int lat_ring_open(int map_fd, lat_ring_record record, void *ctx, struct lat_ring **out)
{
	return -LAT_EPRO;
}

void lat_ring_free(struct lat_ring *ring)
{
}

unsigned lat_ring_id(const struct lat_ring *ring)
{
	return 0;
}

int lat_ring_fd(const struct lat_ring *ring)
{
	return -1;
}

int lat_ring_dispatch(struct lat_ring *ring, int budget)
{
	return -LAT_EPRO;
}
