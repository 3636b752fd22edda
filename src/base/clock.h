/* Monotonic nanoseconds for intervals; wall-clock milliseconds for records. */
#ifndef LAT_BASE_CLOCK_H
#define LAT_BASE_CLOCK_H
#include <stdint.h>
#include <time.h>

#define LAT_NS_PER_SEC 1000000000ull
#define LAT_NS_PER_MS 1000000ull

static inline uint64_t lat_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * LAT_NS_PER_SEC + (uint64_t)t.tv_nsec;
}

static inline uint64_t lat_wall_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / LAT_NS_PER_MS;
}

#endif
