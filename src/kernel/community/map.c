/* Maps in the community edition: there are none; see map.h. */
#include "kernel/map.h"
#include "base/edition.h"

int lat_map_create(const struct lat_map_spec *spec, struct lat_map **out)
{
	return -LAT_EPRO;
}

int lat_map_from_fd(int fd, struct lat_map **out)
{
	return -LAT_EPRO;
}

int lat_map_pinned(const char *path, struct lat_map **out)
{
	return -LAT_EPRO;
}

int lat_map_by_id(uint32_t id, struct lat_map **out)
{
	return -LAT_EPRO;
}

void lat_map_free(struct lat_map *map)
{
}

int lat_map_get(const struct lat_map *map, const void *key, void *value)
{
	return -LAT_EPRO;
}

int lat_map_set(const struct lat_map *map, const void *key, const void *value, enum lat_map_how how)
{
	return -LAT_EPRO;
}

int lat_map_delete(const struct lat_map *map, const void *key)
{
	return -LAT_EPRO;
}

int lat_map_next(const struct lat_map *map, const void *key, void *next)
{
	return -LAT_EPRO;
}

int lat_map_update(const struct lat_map *map, const void *keys, const void *values, uint32_t count)
{
	return -LAT_EPRO;
}

int lat_map_replace(const struct lat_map *map, const void *keys, const void *values, uint32_t count)
{
	return -LAT_EPRO;
}

int lat_map_freeze(const struct lat_map *map)
{
	return -LAT_EPRO;
}

int lat_map_pin(const struct lat_map *map, const char *path)
{
	return -LAT_EPRO;
}
