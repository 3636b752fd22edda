/* One BPF map by its descriptor: keys and values are bytes of the map's sizes. Pro edition; in the community edition whatever
 * would give a map gives -LAT_EPRO. */
#ifndef LAT_KERNEL_MAP_H
#define LAT_KERNEL_MAP_H
#include <stddef.h>
#include <stdint.h>

enum lat_map_type {
	LAT_MAP_HASH, LAT_MAP_LRU, LAT_MAP_LPM, LAT_MAP_ARRAY, LAT_MAP_PERCPU_ARRAY, LAT_MAP_PERCPU_HASH,
	LAT_MAP_ARRAY_OF_MAPS, LAT_MAP_HASH_OF_MAPS, LAT_MAP_RING, LAT_MAP_OTHER, LAT_MAP_TYPE_COUNT
};

struct lat_map {
	int fd;
	uint8_t type;         /* enum lat_map_type */
	uint32_t id, key_size, value_size, entries;
	uint32_t cpus;        /* of a per-CPU map; else 1 */
	size_t value_bytes;   /* of one look-up: each CPU's value is rounded up to 8 bytes */
	char name[16];
};

struct lat_map_spec {
	const char *name;     /* or NULL */
	uint8_t type;
	uint32_t key_size, value_size, entries;
	int inner_fd;         /* of maps of maps: a map like those that go in */
};

enum lat_map_how { LAT_MAP_ANY, LAT_MAP_NEW, LAT_MAP_EXISTING };

int lat_map_create(const struct lat_map_spec *spec, struct lat_map **out);
/* fd: taken on success. */
int lat_map_from_fd(int fd, struct lat_map **out);
int lat_map_pinned(const char *path, struct lat_map **out);
int lat_map_by_id(uint32_t id, struct lat_map **out);
void lat_map_free(struct lat_map *map); /* NULL is fine */

/* value: value_bytes. 0, -ENOENT, or negative errno. */
int lat_map_get(const struct lat_map *map, const void *key, void *value);
int lat_map_set(const struct lat_map *map, const void *key, const void *value, enum lat_map_how how);
int lat_map_delete(const struct lat_map *map, const void *key);
/* The key after `key` (NULL: the first). -ENOENT: there is none. */
int lat_map_next(const struct lat_map *map, const void *key, void *next);
/* Keys and values one behind the other. In one call where the kernel has it, else one by one; how many were set, or
 * negative errno when none could be. */
int lat_map_update(const struct lat_map *map, const void *keys, const void *values, uint32_t count);
/* Makes these the map's entries: sets them all, then deletes every other one. Readers see old and new ones in between:
 * what must change at once is built beside and swapped in a map of maps. Not for arrays. 0 or negative errno. */
int lat_map_replace(const struct lat_map *map, const void *keys, const void *values, uint32_t count);
/* No more changes from user space. */
int lat_map_freeze(const struct lat_map *map);
int lat_map_pin(const struct lat_map *map, const char *path);

#endif
