/* See ring.h; by libbpf. */
#include "kernel/ring.h"
#include "base/mem.h"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

struct lat_ring {
	struct ring_buffer *buffer;
	lat_ring_record record;
	void *ctx;
	int map_fd, left;
	unsigned id;
};

/* A negative result ends the consuming, the record counts as read all the same. */
static int sample(void *ctx, void *data, size_t size)
{
	struct lat_ring *ring = ctx;

	ring->record(ring->ctx, data, size);
	return --ring->left > 0 ? 0 : -ECANCELED;
}

int lat_ring_open(int map_fd, lat_ring_record record, void *ctx, struct lat_ring **out)
{
	struct bpf_map_info info = { 0 };
	uint32_t size = sizeof(info);
	struct lat_ring *ring;

	if (bpf_obj_get_info_by_fd(map_fd, &info, &size) < 0)
		return -errno;
	if (info.type != BPF_MAP_TYPE_RINGBUF)
		return -EINVAL;
	ring = calloc(1, sizeof(*ring));
	if (!ring)
		return -ENOMEM;
	ring->record = record;
	ring->ctx = ctx;
	ring->buffer = ring_buffer__new(map_fd, sample, ring, NULL);
	if (!ring->buffer) {
		int r = errno ? -errno : -ENOMEM;

		free(ring);
		return r;
	}
	ring->map_fd = map_fd;
	ring->id = info.id;
	*out = ring;
	return 0;
}

void lat_ring_free(struct lat_ring *ring)
{
	if (!ring)
		return;
	ring_buffer__free(ring->buffer);
	close(ring->map_fd);
	free(ring);
}

unsigned lat_ring_id(const struct lat_ring *ring)
{
	return ring->id;
}

int lat_ring_fd(const struct lat_ring *ring)
{
	return ring_buffer__epoll_fd(ring->buffer);
}

int lat_ring_dispatch(struct lat_ring *ring, int budget)
{
	int r;

	ring->left = budget;
	r = ring_buffer__consume(ring->buffer);
	return r < 0 && r != -ECANCELED ? r : budget - ring->left;
}
