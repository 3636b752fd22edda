/* A BPF ring buffer map that is read here: a descriptor to poll and a dispatch with a budget. Pro edition; in the
 * community edition lat_ring_open gives -LAT_EPRO. */
#ifndef LAT_KERNEL_RING_H
#define LAT_KERNEL_RING_H
#include <stddef.h>

struct lat_ring;

/* One record; valid during the call. */
typedef void (*lat_ring_record)(void *ctx, const void *data, size_t size);

/* map_fd: descriptor of the map, taken on success. 0, -EINVAL for a map that is no ring buffer, or negative errno. */
int lat_ring_open(int map_fd, lat_ring_record record, void *ctx, struct lat_ring **out);
void lat_ring_free(struct lat_ring *ring); /* NULL is fine */
/* Number of the map: two descriptors may be of one. */
unsigned lat_ring_id(const struct lat_ring *ring);
/* Readable when there may be records. A producer that asks for no wake-up is not seen by it: look again by a timer. */
int lat_ring_fd(const struct lat_ring *ring);
/* Calls `record` for at most `budget` records. How many there were, or negative errno. */
int lat_ring_dispatch(struct lat_ring *ring, int budget);

#endif
