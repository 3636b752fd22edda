/* See map.h. */
#include "kernel/map.h"
#include "base/mem.h"
#include "kernel/pro/fdinfo.h"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <string.h>

static const enum bpf_map_type types[] = {
	[LAT_MAP_HASH] = BPF_MAP_TYPE_HASH,
	[LAT_MAP_LRU] = BPF_MAP_TYPE_LRU_HASH,
	[LAT_MAP_LPM] = BPF_MAP_TYPE_LPM_TRIE,
	[LAT_MAP_ARRAY] = BPF_MAP_TYPE_ARRAY,
	[LAT_MAP_PERCPU_ARRAY] = BPF_MAP_TYPE_PERCPU_ARRAY,
	[LAT_MAP_PERCPU_HASH] = BPF_MAP_TYPE_PERCPU_HASH,
	[LAT_MAP_ARRAY_OF_MAPS] = BPF_MAP_TYPE_ARRAY_OF_MAPS,
	[LAT_MAP_HASH_OF_MAPS] = BPF_MAP_TYPE_HASH_OF_MAPS,
	[LAT_MAP_RING] = BPF_MAP_TYPE_RINGBUF,
	[LAT_MAP_OTHER] = BPF_MAP_TYPE_UNSPEC,
};
_Static_assert(sizeof(types) / sizeof(types[0]) == LAT_MAP_TYPE_COUNT, "a type for each type");

int lat_map_from_fd(int fd, struct lat_map **out)
{
	struct bpf_map_info info = { 0 };
	uint32_t size = sizeof(info);
	struct lat_map *map;
	int cpus = libbpf_num_possible_cpus();

	if (bpf_obj_get_info_by_fd(fd, &info, &size) < 0)
		return -errno;
	if (cpus < 1)
		return cpus < 0 ? cpus : -EIO;
	map = calloc(1, sizeof(*map));
	if (!map)
		return -ENOMEM;
	for (map->type = 0; map->type < LAT_MAP_OTHER && types[map->type] != info.type; map->type++)
		;
	map->fd = fd;
	map->id = info.id;
	map->key_size = info.key_size;
	map->value_size = info.value_size;
	map->entries = info.max_entries;
	map->cpus = 1;
	map->value_bytes = info.value_size;
	if (map->type == LAT_MAP_PERCPU_ARRAY || map->type == LAT_MAP_PERCPU_HASH) {
		map->cpus = (uint32_t)cpus;
		map->value_bytes = (info.value_size + 7u) / 8 * 8 * (size_t)cpus;
	}
	snprintf(map->name, sizeof(map->name), "%s", info.name);
	*out = map;
	return 0;
}

static int adopt(int fd, struct lat_map **out)
{
	int r;

	if (fd < 0)
		return -errno;
	r = lat_map_from_fd(fd, out);
	if (r < 0)
		close(fd);
	return r;
}

int lat_map_create(const struct lat_map_spec *spec, struct lat_map **out)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts);

	if (spec->type >= LAT_MAP_OTHER)
		return -EINVAL;
	if (spec->type == LAT_MAP_LPM)
		opts.map_flags = BPF_F_NO_PREALLOC;
	if (spec->type == LAT_MAP_ARRAY_OF_MAPS || spec->type == LAT_MAP_HASH_OF_MAPS)
		opts.inner_map_fd = (uint32_t)spec->inner_fd;
	return adopt(bpf_map_create(types[spec->type], spec->name, spec->key_size, spec->value_size, spec->entries, &opts),
		out);
}

bool lat_bpf_fd_is(int fd, const char *word)
{
	char path[64], line[128];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = strncmp(line, word, strlen(word)) == 0;
	if (f)
		fclose(f);
	return found;
}

int lat_map_pinned(const char *path, struct lat_map **out)
{
	int fd = bpf_obj_get(path);

	if (fd >= 0 && !lat_bpf_fd_is(fd, "map_type:")) {
		close(fd);
		return -EINVAL;
	}
	return adopt(fd, out);
}

int lat_map_by_id(uint32_t id, struct lat_map **out)
{
	return adopt(bpf_map_get_fd_by_id(id), out);
}

void lat_map_free(struct lat_map *map)
{
	if (!map)
		return;
	close(map->fd);
	free(map);
}

int lat_map_get(const struct lat_map *map, const void *key, void *value)
{
	return bpf_map_lookup_elem(map->fd, key, value) < 0 ? -errno : 0;
}

int lat_map_set(const struct lat_map *map, const void *key, const void *value, enum lat_map_how how)
{
	static const uint64_t flags[] = { BPF_ANY, BPF_NOEXIST, BPF_EXIST };

	return bpf_map_update_elem(map->fd, key, value, flags[how]) < 0 ? -errno : 0;
}

int lat_map_delete(const struct lat_map *map, const void *key)
{
	return bpf_map_delete_elem(map->fd, key) < 0 ? -errno : 0;
}

int lat_map_next(const struct lat_map *map, const void *key, void *next)
{
	return bpf_map_get_next_key(map->fd, key, next) < 0 ? -errno : 0;
}

int lat_map_update(const struct lat_map *map, const void *keys, const void *values, uint32_t count)
{
	LIBBPF_OPTS(bpf_map_batch_opts, opts);
	uint32_t done = count;
	int r;

	if (count == 0)
		return 0;
	if (bpf_map_update_batch(map->fd, keys, values, &done, &opts) == 0)
		return (int)count;
	r = -errno;
	if (r != -EOPNOTSUPP && r != -EINVAL && r != -524 /* ENOTSUPP, which user space has no word for */)
		return done && done < count ? (int)done : r;
	for (done = 0; done < count; done++) {
		r = lat_map_set(map, (const char *)keys + (size_t)done * map->key_size,
			(const char *)values + (size_t)done * map->value_bytes, LAT_MAP_ANY);
		if (r < 0)
			return done ? (int)done : r;
	}
	return (int)count;
}

static int by_bytes(const void *a, const void *b, void *size)
{
	return memcmp(a, b, *(const size_t *)size);
}

/* The keys of the map that are not among `keys` (sorted). */
static int find_others(const struct lat_map *map, const char *keys, uint32_t count, char **out, uint32_t *found)
{
	lat_autofree char *key = malloc(map->key_size), *others = NULL;
	size_t size = map->key_size, room = 0;
	uint32_t n = 0;
	int r;

	if (!key)
		return -ENOMEM;
	/* More steps than entries: somebody else changes it, and the walk began anew. */
	r = lat_map_next(map, NULL, key);
	for (uint64_t steps = 0; r == 0 && steps < 2ull * map->entries + 16; steps++) {
		size_t lo = 0, hi = count;

		while (lo < hi) {
			size_t mid = (lo + hi) / 2;

			if (memcmp(keys + mid * size, key, size) < 0)
				lo = mid + 1;
			else
				hi = mid;
		}
		if (lo == count || memcmp(keys + lo * size, key, size) != 0) {
			if (n == room) {
				char *more = realloc(others, (room ? room * 2 : 64) * size);

				if (!more)
					return -ENOMEM;
				others = more;
				room = room ? room * 2 : 64;
			}
			memcpy(others + n++ * size, key, size);
		}
		r = lat_map_next(map, key, key);
	}
	if (r < 0 && r != -ENOENT)
		return r;
	*out = lat_take(&others);
	*found = n;
	return 0;
}

int lat_map_replace(const struct lat_map *map, const void *keys, const void *values, uint32_t count)
{
	lat_autofree char *sorted = NULL, *others = NULL;
	size_t size = map->key_size;
	uint32_t n = 0;
	int r;

	if (map->type == LAT_MAP_ARRAY || map->type == LAT_MAP_PERCPU_ARRAY || map->type == LAT_MAP_ARRAY_OF_MAPS)
		return -EINVAL;
	sorted = malloc((size_t)count * size + 1);
	if (!sorted)
		return -ENOMEM;
	memcpy(sorted, keys, (size_t)count * size);
	qsort_r(sorted, count, size, by_bytes, &size);
	r = lat_map_update(map, keys, values, count);
	if (r >= 0 && (uint32_t)r < count)
		r = -E2BIG;
	if (r < 0)
		return r;
	r = find_others(map, sorted, count, &others, &n);
	for (uint32_t i = 0; r == 0 && i < n; i++) {
		r = lat_map_delete(map, others + i * size);
		if (r == -ENOENT)
			r = 0;
	}
	return r;
}

int lat_map_freeze(const struct lat_map *map)
{
	return bpf_map_freeze(map->fd) < 0 ? -errno : 0;
}

int lat_map_pin(const struct lat_map *map, const char *path)
{
	return bpf_obj_pin(map->fd, path) < 0 ? -errno : 0;
}
